"""Score with transformers' sequence and token classifiers: sorted by length, padded on the right."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from scalequest import heartbeat
from scalequest.engines.base import Block, EngineConfig, Request
from scalequest.engines.scoring import Head, Score, check_ids, places_of, positive_label, score_of
from scalequest.engines.transformers_engine import device
from scalequest.models import load_whole
from scalequest.precision import engine_dtype


class TransformersScorer:
    """A `Scorer` that uses transformers, on a GPU if there is one."""

    name = "transformers"

    def __init__(
        self, model: str, config: EngineConfig, *, revision: str | None = None, head: Head | None = None
    ) -> None:
        """Load `model`.

        Raises:
            ConfigError: transformers has no classifier for this architecture, it has more than two labels, or
                it is not known which of two is the positive one.
        """
        self._head = head or Head()
        self.version: str = transformers.__version__
        trusted = config.trust_remote_code
        dtype = engine_dtype(config.dtype, model, revision=revision, trust_remote_code=trusted)
        how: dict[str, Any] = {"revision": revision, "dtype": dtype, "trust_remote_code": trusted}
        auto: Any = (
            AutoModelForTokenClassification if self._head.steps else AutoModelForSequenceClassification
        )
        self.model: Any = load_whole(auto, model, **how)
        self._positive = positive_label(self.model.config, self._head, model)
        self.model.to(device()).eval()
        self._text = self.model.config.get_text_config()
        self.context: int = config.max_model_len or self._text.max_position_embeddings
        self._batch_size = config.batch_size

    def score(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Score]]]:
        """See `Scorer.score`."""
        for block in blocks:
            for request in block.requests:
                check_ids(request, self._text.vocab_size)
            lengths = [len(request.prompt_ids) for request in block.requests]
            order = sorted(
                (place for place, length in enumerate(lengths) if length <= self.context),
                key=lengths.__getitem__,
            )
            values: dict[int, tuple[float, ...]] = {}
            for start in range(0, len(order), self._batch_size):
                places = order[start : start + self._batch_size]
                values |= zip(places, self._values([block.requests[place] for place in places]), strict=True)
                heartbeat.finished(len(places))
            yield block, [self._score(request, values.get(n)) for n, request in enumerate(block.requests)]

    def _score(self, request: Request, found: tuple[float, ...] | None) -> Score:
        steps = found if found is not None and self._head.steps else ()
        return Score(request.key, found[-1] if found else None, len(request.prompt_ids), steps=steps)

    def _values(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        # A decoder's head is read at the last non-padding token, which is identified by its id alone. If a
        # text ends in the padding token (often the stop token is used for both), it would be read one token
        # too early.
        last = {request.prompt_ids[-1] for request in requests}
        own = self._text.pad_token_id
        pad = own if own is not None and own not in last else min(set(range(len(last) + 1)) - last)
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), width), pad)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, : len(request.prompt_ids)] = torch.tensor(list(request.prompt_ids))
            mask[row, : len(request.prompt_ids)] = 1
        self._text.pad_token_id = pad
        try:
            with torch.inference_mode():
                output = self.model(ids.to(self.model.device), attention_mask=mask.to(self.model.device))
        finally:
            self._text.pad_token_id = own
        logits = output.logits.float().tolist()  # [rows, labels], or [rows, tokens, labels]
        if not self._head.steps:
            return [(score_of(outputs, self._positive),) for outputs in logits]
        return [
            tuple(score_of(tokens[place], self._positive, probability=True) for place in places_of(request))
            for request, tokens in zip(requests, logits, strict=True)
        ]

    def __enter__(self) -> TransformersScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model."""
        kind_of_device = self.model.device.type
        del self.model
        gc.collect()
        if kind_of_device != "cpu":
            getattr(torch, kind_of_device).empty_cache()
