"""The interface of every engine: token ids and sampling settings in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT, SHARE_ABOVE_0, Range

FinishReason = Literal["stop", "length"]
CHECK_EVERY = 8  # tokens between two calls of `Request.ends`


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of a stage; temperature 0 is greedy, and `max_tokens` includes the stop token."""

    temperature: float = option(1.0, "0 is greedy", within=Range(least=0, most=2))
    top_p: float = option(1.0, "nucleus probability mass; 1 keeps every token", within=SHARE_ABOVE_0)
    max_tokens: int = option(512, "maximum number of tokens per completion", within=COUNT)


@dataclass(frozen=True)
class Request:
    """A request for one completion.

    Attributes:
        key: the caller's identifier, unique within its block, e.g. `"q-000012/3"`.
        prompt_ids: the token ids that the model gets, BOS included; an engine adds nothing.
        seed: the seed of this request (from run seed, stage, row and sample number), or None for unseeded.
        ends: returns whether the generated ids contain an end that no stop id marks, e.g. the start of a base
            model's next problem; called every `CHECK_EVERY` tokens, so the caller cuts off what follows the
            end.
    """

    key: str
    prompt_ids: Sequence[int]
    seed: int | None
    ends: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class Block:
    """A fixed range of row numbers: the unit that is written, resumed and (on `transformers`) batched.

    Attributes:
        index: the block's number.
        requests: one request per completion.
        seed: the seed of the engine's random numbers for this block, from which requests without their own
            seed draw. None continues the previous sequence of random numbers.
    """

    index: int
    requests: Sequence[Request]
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """The result of one request.

    Attributes:
        key: the request's key.
        ids: the generated ids without the stop token.
        finish_reason: "stop" (a stop id, or `Request.ends`) or "length" (`max_tokens` ran out first).
        prompt_tokens: the length of the prompt.
        tokens: the number of generated tokens, including the stop token.
    """

    key: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    tokens: int


class Generator(Protocol):
    """A loaded model that completes prompts. Use it as a context manager: leaving it frees the model."""

    name: str
    version: str
    context: int  # maximum number of tokens of a prompt and its completion together

    def generate(
        self, blocks: Iterable[Block], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[Block, list[Completion]]]:
        """Complete every request of every block.

        Blocks are taken lazily and may be yielded in a different order; within a block, the completions have
        the order of its requests. Generation ends at the first of `stop_ids` or when `Request.ends` returns
        true, and at no other token.
        """
        ...

    def __enter__(self) -> Generator: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class EngineConfig:
    """Which engine to use, and its settings."""

    name: Literal["auto", "vllm", "transformers"] = option(
        "auto", "auto: vllm if it can be imported, else transformers"
    )
    dtype: str = option(
        "auto",
        "auto: the checkpoint's dtype, or float32 if this CPU would emulate that; "
        "native: bfloat16 if this machine computes it natively, whatever the checkpoint "
        "has; or a dtype",
    )
    max_model_len: int | None = option(None, "context length; null: the model's", within=COUNT)
    batch_size: int = option(128, "transformers: rows per forward pass", fingerprint=False, within=COUNT)
    tensor_parallel_size: int = option(1, "vllm: GPUs per copy of the model", fingerprint=False, within=COUNT)
    gpu_memory_utilization: float = option(
        0.92, "vllm: fraction of the GPU's memory to use", fingerprint=False, within=SHARE_ABOVE_0
    )
    max_num_seqs: int | None = option(
        None,
        "vllm: maximum number of sequences in flight; null: vLLM's default",
        fingerprint=False,
        within=COUNT,
    )
    enforce_eager: bool | None = option(
        None,
        "vllm: disable compilation and graph capture; null: true on CPUs, false on GPUs",
        fingerprint=False,
    )
    trust_remote_code: bool = option(False, "allow code that comes with the model to run")
    extra: dict[str, Any] = option(
        help="vllm: further arguments for vllm.LLM, checked against the installed version",
        default_factory=dict,
    )


def check_request(request: Request, sampling: Sampling, *, context: int, vocabulary: int) -> None:
    """Refuse a request that the model cannot complete, before it becomes part of a batch.

    Raises:
        ConfigError: names the request's key.
    """
    length = len(request.prompt_ids)
    if not length:
        raise ConfigError(f"request {request.key}: empty prompt")
    if length + sampling.max_tokens > context:
        raise ConfigError(
            f"request {request.key}: a prompt of {length} tokens plus max_tokens "
            f"{sampling.max_tokens} exceeds the context of {context} (engine.max_model_len)"
        )
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
        raise ConfigError(
            f"request {request.key}: token id {max(request.prompt_ids)} is outside the model's vocabulary "
            f"of {vocabulary}"
        )
