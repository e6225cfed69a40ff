"""Prompt files: a template with one `{question}` and, where the reply is parsed, the markers to cut it at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scalequest.config import ConfigError, read_yaml


@dataclass(frozen=True)
class Prompt:
    """What a model is asked about a question.

    Attributes:
        template: the user's turn, with `{question}` once; other braces stand for themselves.
        markers: what may stand before the part of the reply that is kept, tried in this order.
    """

    template: str
    markers: tuple[str, ...] = ()

    def fill(self, question: str) -> str:
        """The template with `question` in it."""
        return self.template.replace("{question}", question)

    def parse(self, reply: str) -> str | None:
        """The text after the last occurrence of the first marker that occurs at all; None where none does.

        The rule of the authors' code, which calls the second case "" and keeps it.
        """
        for marker in self.markers:
            if marker in reply:
                return reply.rpartition(marker)[2].strip()
        return None


def load_prompt(path: str | Path) -> Prompt:
    """Read a prompt file: keys `template` and, optionally, `markers`.

    Raises:
        ConfigError: a key is missing, unknown or of another type, or the template lacks its `{question}`.
    """
    content = read_yaml(path)
    unknown = set(content) - {"template", "markers"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {sorted(unknown)[0]!r}; a prompt has template and markers")
    template, markers = content.get("template"), content.get("markers") or []
    if not isinstance(template, str) or template.count("{question}") != 1:
        raise ConfigError(f"{path}: template must be a text that holds {{question}} exactly once")
    if not isinstance(markers, list) or not all(isinstance(marker, str) and marker for marker in markers):
        raise ConfigError(f"{path}: markers must be a list of texts")
    return Prompt(template.strip(), tuple(markers))
