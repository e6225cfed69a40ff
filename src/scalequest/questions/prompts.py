"""Prompt files: a template with one `{question}`, and markers for extracting the reply if it is parsed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scalequest.config import ConfigError, build, read_yaml


@dataclass(frozen=True)
class Prompt:
    """A prompt about a question.

    Attributes:
        template: the user turn, with `{question}` exactly once; other braces are left unchanged.
        markers: strings that may precede the relevant part of the reply, tried in this order.
    """

    template: str
    markers: tuple[str, ...] = ()

    def fill(self, question: str) -> str:
        """Return the template with `question` filled in."""
        return self.template.replace("{question}", question)

    def parse(self, reply: str) -> str | None:
        """Return the text after the last occurrence of the first marker that occurs; None if none occurs.

        The authors' code has the same rule, except that it returns "" in the second case and keeps it.
        """
        for marker in self.markers:
            if marker in reply:
                return reply.rpartition(marker)[2].strip()
        return None


def load_prompt(path: str | Path) -> Prompt:
    """Read a prompt file with the keys `template` and, optionally, `markers`.

    Raises:
        ConfigError: a key is missing, unknown or of the wrong type, or the template lacks `{question}`.
    """
    prompt: Prompt = build((Prompt,), read_yaml(path), str(path))[0]
    if prompt.template.count("{question}") != 1:
        raise ConfigError(f"{path}: template must be a string that contains {{question}} exactly once")
    if not all(prompt.markers):
        raise ConfigError(f"{path}: markers: must not contain an empty string")
    return replace(prompt, template=prompt.template.strip())
