"""Prompt files: a template with one `{question}` and, if the reply is parsed, the markers to cut it at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scalequest.config import ConfigError, build, read_yaml


@dataclass(frozen=True)
class Prompt:
    """What a model is asked about a question.

    Attributes:
        template: the user's turn, with `{question}` once; other braces are kept as they are.
        markers: what may come before the part of the reply that is kept, tried in this order.
    """

    template: str
    markers: tuple[str, ...] = ()

    def fill(self, question: str) -> str:
        """The template with `question` in it."""
        return self.template.replace("{question}", question)

    def parse(self, reply: str) -> str | None:
        """The text after the last occurrence of the first marker that occurs at all; None if none does.

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
    prompt: Prompt = build((Prompt,), read_yaml(path), str(path))[0]
    if prompt.template.count("{question}") != 1:
        raise ConfigError(f"{path}: template must be a string that contains {{question}} exactly once")
    if not all(prompt.markers):
        raise ConfigError(f"{path}: markers: must not contain an empty string")
    return replace(prompt, template=prompt.template.strip())
