"""What a reward model reads: a question and a response as token ids, and the places of the steps in them.

The ids come from a chat format, or from the chat template of the model's own tokenizer. For a process reward
model, the response is split into steps, each of which is followed by the separator that the model was trained
with (a line break, or a token such as `<extra_0>`); its score is read at the last token of that separator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod
from typing import Any, Literal

from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError
from scalequest.engines.base import Request
from scalequest.engines.scoring import StepRequest

Aggregate = Literal["min", "mean", "product", "last"]
AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda scores: sum(scores) / len(scores),
    "product": prod,
    "last": lambda scores: scores[-1],
}


class RewardInputs:
    """Makes requests from questions and responses, for one reward model."""

    def __init__(
        self,
        tokenizer: Any,
        chat: BoundFormat | None = None,
        *,
        suffix: str = "",
        end_token: int | None = None,
    ) -> None:
        """Set up the markup.

        Args:
            tokenizer: the model's.
            chat: its chat format; None: the chat template of the tokenizer.
            suffix: text after the end of the response.
            end_token: id after that.

        Raises:
            ConfigError: there is neither a format nor a template.
        """
        self.tokenizer, self.chat, self.suffix, self.end_token = tokenizer, chat, suffix, end_token
        if chat is None and tokenizer.chat_template is None:
            raise ConfigError(
                "chat_format: the reward model's tokenizer has no chat template; name the format "
                "that it was trained in"
            )

    def whole(self, key: str, question: str, response: str) -> Request:
        """Return the request for one score of a response.

        Raises:
            FormatError: the markup cannot hold a text.
        """
        if self.chat is not None:
            prompt, target = self.chat.solve_ids(question, response)
            ids = [*prompt, *target]
        else:
            ids = self._encoded(question, response.strip())[0]
        tail = self.tokenizer(self.suffix, add_special_tokens=False)["input_ids"] if self.suffix else []
        return Request(key, [*ids, *tail, *([] if self.end_token is None else [self.end_token])], None)

    def steps(self, key: str, question: str, response: str, split_at: str, separator: str) -> StepRequest:
        """Return the request for a score of each step.

        Args:
            key: of the request.
            question: the question.
            response: its steps, with `split_at` between them; empty ones do not count.
            split_at: what stands between two steps in the response.
            separator: what follows each step in the ids.

        Raises:
            FormatError: the markup cannot hold a text.
        """
        parts = [part.strip() for part in response.split(split_at) if part.strip()]
        body, ends = "", []
        for part in parts:
            body += part + separator
            ends.append(len(body))
        ids, offsets, (start, stop) = self._encoded(question, body, self._specials(separator) * len(parts))
        if not offsets:
            raise ConfigError("aggregate: needs a fast tokenizer, which says what text each token stands for")
        places = [_last_within(offsets, start, min(start + end, stop)) for end in ends]
        return StepRequest(key, ids, None, places=tuple(places))

    def _encoded(
        self, question: str, body: str, specials: Sequence[int] = ()
    ) -> tuple[list[int], list[tuple[int, int]], tuple[int, int]]:
        """Encode a question and an answer.

        Args:
            question: the question.
            body: the answer.
            specials: special ids that the answer may hold.

        Returns:
            The ids, the characters of the text that each stands for, and those of the answer.
        """
        question = question.strip()
        if not question or not body.strip():
            raise FormatError("empty")
        text = self._text(question, body)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
        ids = list(found["input_ids"])
        if sorted(one for one in ids if one in self._special_ids) != sorted([*self._markup, *specials]):
            raise FormatError("special_token_in_text")
        kept = body if body in text else body.strip()  # a template may strip what it is given
        start = text.rfind(kept)
        if start < 0:
            raise FormatError("changed_by_template")
        offsets = list(found.get("offset_mapping") or [])
        bos = self.chat.bos_id if self.chat is not None else None
        if bos is not None:
            ids, offsets = [bos, *ids], [(0, 0), *offsets]
        return ids, offsets, (start, start + len(kept))

    def _text(self, question: str, body: str) -> str:
        if self.chat is None:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": body}]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        before, _, after = self.chat.templates["training on solutions"][0].partition("{response}")
        return before.replace("{question}", question) + body + after

    def _specials(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [one for one in ids if one in self._special_ids]

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = {token for token, entry in self.tokenizer.added_tokens_decoder.items() if entry.special}
        return frozenset({*added, *self.tokenizer.all_special_ids})

    @cached_property
    def _markup(self) -> list[int]:
        return self._specials(self._text("x", "x"))


def _last_within(offsets: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Return the last token that ends at or before the character `end` and holds text after `start`."""
    return max(number for number, (first, last) in enumerate(offsets) if first < last <= end and last > start)
