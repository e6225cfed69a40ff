"""What every engine takes and gives: token ids and sampling in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT, SHARE_ABOVE_0, Range

FinishReason = Literal["stop", "length"]
CHECK_EVERY = 8  # tokens between two questions to `Request.ends`


@dataclass(frozen=True)
class Sampling:
    """How a stage samples; temperature 0 is greedy, `max_tokens` counts the stop token too."""

    temperature: float = option(1.0, "0 is greedy", within=Range(least=0, most=2))
    top_p: float = option(1.0, "nucleus probability mass; 1 keeps every token", within=SHARE_ABOVE_0)
    max_tokens: int = option(512, "maximum number of tokens per completion", within=COUNT)


@dataclass(frozen=True)
class Request:
    """One completion to make.

    Attributes:
        key: what the caller knows it by, unique in its block, e.g. `"q-000012/3"`.
        prompt_ids: token ids as the model gets them, BOS included; an engine adds nothing.
        seed: of this request alone (from run seed, stage, row and sample number), or None for unseeded.
        ends: whether the ids generated so far hold what ends them though no stop id says so, e.g. a base
            model's next problem; asked every `CHECK_EVERY` tokens, so the caller cuts what stands behind it.
    """

    key: str
    prompt_ids: Sequence[int]
    seed: int | None
    ends: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class Block:
    """A fixed run of row numbers, the unit that is written, resumed and (on `transformers`) batched.

    Attributes:
        index: its number.
        requests: one a completion.
        seed: what the engine's random numbers start from when it takes the block; requests without a seed of
            their own draw from it. None goes on with the numbers that are left.
    """

    index: int
    requests: Sequence[Request]
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """What came back for one request.

    Attributes:
        key: the request's.
        ids: generated ids without the stop token.
        finish_reason: "stop" (a stop id, or `Request.ends`) or "length" (`max_tokens` ran out first).
        prompt_tokens: length of the prompt.
        tokens: generated tokens, the stop token included.
    """

    key: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    tokens: int


class Generator(Protocol):
    """A loaded model that completes prompts. Use as a context manager: leaving it frees the model."""

    name: str
    version: str
    context: int  # tokens that a prompt and what may follow it can have together

    def generate(
        self, blocks: Iterable[Block], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[Block, list[Completion]]]:
        """Complete every request of every block.

        Blocks are taken lazily and may be yielded in another order; inside a block the completions stand in
        the order of its requests. Generation ends at the first of `stop_ids`, where `Request.ends` says so,
        and at no other token.
        """
        ...

    def __enter__(self) -> Generator: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class EngineConfig:
    """Which engine, and what it is given."""

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
    """Refuse a request that the model cannot finish, before it is one of many in a batch.

    Raises:
        ConfigError: naming the request's key.
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
