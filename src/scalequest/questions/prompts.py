"""Prompt files: a template with one `{question}`, and markers for extracting the reply if it is parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalequest.config import ConfigError, build, read_yaml

_PLACE = re.compile(r"\{(question|response|topics)\}")


@dataclass(frozen=True)
class Prompt:
    """What a model is asked about a question, or about a response to it.

    Attributes:
        template: the user's turn, with `{question}` once (a judge of responses: `{response}` once, too; one
            of topics: `{topics}` once, too). Other braces are kept as they are.
        markers: what may come before the part of the reply that is kept, tried in this order.
    """

    template: str
    markers: tuple[str, ...] = ()

    def fill(self, question: str, *, response: str | None = None, topics: Sequence[str] = ()) -> str:
        """The template with these texts in it; braces within them are text."""
        given = {"question": question, "response": response, "topics": ", ".join(topics) if topics else None}
        texts = {f"{{{name}}}": text for name, text in given.items() if text is not None}
        return _PLACE.sub(lambda place: texts.get(place[0], place[0]), self.template)

    def parse(self, reply: str) -> str | None:
        """Return the text after the last occurrence of the first marker that occurs; None if none occurs.

        The authors' code has the same rule, except that it returns "" in the second case and keeps it.
        """
        for marker in self.markers:
            if marker in reply:
                return reply.rpartition(marker)[2].strip()
        return None


def load_prompt(path: str | Path, places: Sequence[str] = ("question",)) -> Prompt:
    """Read a prompt file: keys `template` and, optionally, `markers`.

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
    if not all(prompt.markers):
        raise ConfigError(f"{path}: markers: must not contain an empty string")
    return replace(prompt, template=prompt.template.strip())
