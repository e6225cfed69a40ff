"""Generate with transformers: blocks sorted by length, padded on the left, one random stream per request.

It is slower than vLLM, but runs wherever torch does, and the same block always gives the same bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.utils import logging as transformers_logging

from scalequest import heartbeat
from scalequest.engines.base import (
    CHECK_EVERY,
    Block,
    Completion,
    EngineConfig,
    Request,
    Sampling,
    check_request,
)
from scalequest.models import load_whole
from scalequest.precision import engine_dtype


class TransformersGenerator:
    """A `Generator` that uses transformers' `generate`, on a GPU if there is one."""

    name = "transformers"

    def __init__(
        self, model: str, config: EngineConfig, *, revision: str | None = None, seed: int = 0
    ) -> None:
        """Load `model`; `seed` is for requests without their own seed."""
        self.version: str = transformers.__version__
        trusted = config.trust_remote_code
        dtype = engine_dtype(config.dtype, model, revision=revision, trust_remote_code=trusted)
        transformers_logging.disable_progress_bar()
        how: dict[str, Any] = {"revision": revision, "dtype": dtype, "trust_remote_code": trusted}
        self.model: Any = load_whole(AutoModelForCausalLM, model, **how)
        transformers_logging.enable_progress_bar()
        self.model.to(device()).eval()
        # The checkpoint's recommendations (e.g. a repetition penalty) would fill every field left unset.
        self.model.generation_config = GenerationConfig()
        text = self.model.config.get_text_config()
        self.context: int = config.max_model_len or text.max_position_embeddings
        self._vocabulary: int = text.vocab_size
        self._batch_size = config.batch_size
        self._unseeded = torch.Generator().manual_seed(seed)

    def generate(
        self, blocks: Iterable[Block], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[Block, list[Completion]]]:
        """See `Generator.generate`; blocks are yielded in the order in which they are taken.

        Raises:
            ConfigError: a request does not fit into the context.
        """
        for block in blocks:
            if block.seed is not None:
                self._unseeded.manual_seed(block.seed)
            for request in block.requests:
                check_request(request, sampling, context=self.context, vocabulary=self._vocabulary)
            order = sorted(
                range(len(block.requests)), key=lambda position: len(block.requests[position].prompt_ids)
            )
            done: dict[int, Completion] = {}
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                requests = [block.requests[position] for position in batch]
                completions = self._complete(requests, sampling, stop_ids)
                done |= zip(batch, completions, strict=True)
                heartbeat.finished(len(batch), sum(completion.tokens for completion in completions))
            yield block, [done[position] for position in range(len(block.requests))]

    def _complete(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: Sequence[int]
    ) -> list[Completion]:
        width = max(len(request.prompt_ids) for request in requests)
        pad = stop_ids[0] if stop_ids else 0  # masked in prompts, cut off after stop tokens
        ids = torch.full((len(requests), width), pad)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(list(request.prompt_ids))
            mask[row, width - len(request.prompt_ids) :] = 1
        settings = GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=pad,
        )
        drawing = [RowSampler(self._uniforms(requests, sampling), sampling)] if sampling.temperature else []
        watching = Watch(requests, width)
        output = self.model.generate(
            ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            generation_config=settings,
            logits_processor=drawing,
            stopping_criteria=[
                Counted(len(requests), width, sampling.max_tokens),
                *([watching] if any(request.ends for request in requests) else []),
            ],
        )
        stops = frozenset(stop_ids)
        rows = zip(requests, output[:, width:].tolist(), watching.lengths, strict=True)
        return [_completion(request, generated, stops, length) for request, generated, length in rows]

    def _uniforms(self, requests: Sequence[Request], sampling: Sampling) -> torch.Tensor:
        """Draw the random numbers of a batch, [rows, max_tokens], on the CPU: equal on every device."""
        rows = []
        for request in requests:
            seeded = request.seed is not None
            generator = torch.Generator().manual_seed(request.seed) if seeded else self._unseeded
            rows.append(torch.rand(sampling.max_tokens, generator=generator))
        return torch.stack(rows).to(self.model.device)

    def __enter__(self) -> TransformersGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model."""
        device = self.model.device.type
        del self.model
        gc.collect()
        if device != "cpu":
            getattr(torch, device).empty_cache()


class RowSampler(LogitsProcessor):
    """Draw each row's next token from its own uniform random numbers, by inverse transform sampling.

    A row's choice then only depends on its logits and its numbers, not on the other rows or its position.
    Each row is left with one finite score, so that the greedy `generate` selects the drawn token.
    """

    def __init__(self, uniforms: torch.Tensor, sampling: Sampling) -> None:
        """Take the uniform numbers, [rows, steps] in [0, 1); each call uses up one step."""
        self._uniforms = uniforms
        self._sampling = sampling
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Turn logits, [rows, vocabulary], into scores that are finite only for the drawn token."""
        uniform = self._uniforms[:, self._step : self._step + 1]
        self._step += 1
        probabilities = torch.softmax(scores.float() / self._sampling.temperature, dim=-1)
        order = None
        if self._sampling.top_p < 1:
            probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = probabilities.cumsum(dim=-1) - probabilities
            # The smallest set of top tokens that reaches top_p, including the one that crosses it.
            probabilities = probabilities.masked_fill(before >= self._sampling.top_p, 0)
        reached = probabilities.cumsum(dim=-1)
        total = reached[:, -1:]
        # Strictly below the total, so that the chosen token has a probability above zero.
        target = torch.minimum(uniform * total, total * (1 - 2**-23))
        drawn = torch.searchsorted(reached, target, right=True)
        if order is not None:
            drawn = order.gather(-1, drawn)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


class Watch(StoppingCriteria):
    """Ends rows according to `Request.ends`; `lengths` are their numbers of tokens at that time, or None."""

    def __init__(self, requests: Sequence[Request], width: int) -> None:
        """Watch a batch whose prompts are padded to `width` tokens."""
        self._requests, self._width = requests, width
        self.lengths: list[int | None] = [None] * len(requests)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which rows are finished, [rows]."""
        made = input_ids.shape[1] - self._width
        if made % CHECK_EVERY == 0:
            for row, (request, length) in enumerate(zip(self._requests, self.lengths, strict=True)):
                if length is None and request.ends and request.ends(input_ids[row, self._width :].tolist()):
                    self.lengths[row] = made
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


class Counted(StoppingCriteria):
    """Ends no row; reports the progress of the batch, because on a CPU it may take minutes."""

    def __init__(self, rows: int, width: int, most: int) -> None:
        """Prepare for a batch of this many rows, padded to `width`, with this token limit."""
        self._rows, self._width, self._most = rows, width, most
        self._none: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return that no row is finished, [rows]."""
        heartbeat.decoding(self._rows, input_ids.shape[1] - self._width, self._most)
        if self._none is None:
            self._none = torch.zeros(self._rows, dtype=torch.bool, device=input_ids.device)
        return self._none


def _completion(
    request: Request, generated: list[int], stops: frozenset[int], length: int | None
) -> Completion:
    generated = generated[:length]
    end = next((place for place, token in enumerate(generated) if token in stops), None)
    return Completion(
        key=request.key,
        ids=tuple(generated[:end]),
        finish_reason="length" if end is None and length is None else "stop",
        prompt_tokens=len(request.prompt_ids),
        tokens=len(generated) if end is None else end + 1,
    )


def device() -> str:
    """Return the device for models: a GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
