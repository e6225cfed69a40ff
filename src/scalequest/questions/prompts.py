"""Prompt files: a template with one `{question}` and, if the reply is parsed, the markers to cut it at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalequest.config import ConfigError, build, read_yaml

_PLACE = re.compile(r"\{(question|response|choices)\}")


@dataclass(frozen=True)
class Prompt:
    """What a model is asked about a question, or about a response to it.

    Attributes:
        template: the user's turn, with `{question}` once (a judge of responses: `{response}` once, too);
            `{choices}` lists the choices. Other braces are kept as they are.
        markers: what may come before the part of the reply that is kept, tried in this order.
        choices: what a reply may choose from, if it has to choose, e.g. topics.
    """

    template: str
    markers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def fill(self, question: str, response: str = "") -> str:
        """The template with these texts in it; braces within them are text."""
        texts = {"question": question, "response": response, "choices": ", ".join(self.choices)}
        return _PLACE.sub(lambda place: texts[place[1]], self.template)

    def parse(self, reply: str) -> str | None:
        """The text after the last occurrence of the first marker that occurs at all; None if none does.

        The rule of the authors' code, which calls the second case "" and keeps it.
        """
        for marker in self.markers:
            if marker in reply:
                return reply.rpartition(marker)[2].strip()
        return None


def load_prompt(path: str | Path, places: Sequence[str] = ("question",)) -> Prompt:
    """Read a prompt file: keys `template` and, optionally, `markers` and `choices`.

    Args:
        path: of the file.
        places: what the template has to have a place for, once each.

    Raises:
        ConfigError: a key is missing, unknown or of another type, or the template lacks one of its places.
    """
    prompt: Prompt = build((Prompt,), read_yaml(path), str(path))[0]
    for place in places:
        if prompt.template.count(f"{{{place}}}") != 1:
            raise ConfigError(f"{path}: template must be a string that contains {{{place}}} exactly once")
    for key in ("markers", "choices"):
        if not all(text.strip() for text in getattr(prompt, key)):
            raise ConfigError(f"{path}: {key}: one of them is empty")
    folded = [choice.casefold() for choice in prompt.choices]
    if len(set(folded)) != len(folded):
        raise ConfigError(f"{path}: choices: one of them is there twice")
    return replace(prompt, template=prompt.template.strip())
