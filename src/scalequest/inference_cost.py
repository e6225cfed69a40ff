"""What sampling and scoring take: memory per GPU, sequences at a time and GPU-hours, from first principles.

A pass over a model's weights takes as long as its arithmetic (2 FLOPs per weight and token, and 4 per token,
block and hidden number for each token attended to) or its reading of memory (all weights once, the keys and
values of all sequences), whichever is longer. Reading prompts and scoring are passes over many tokens;
decoding is one pass per token of the sequences that run together, and their number is bounded by the room
that the weights leave for keys and values. The engine keeps the GPU at work for a share of the time.

`Efficiency` holds the three shares. They are the same for every stage and none was fitted to a stage:

- arithmetic: 0.32 of the dense bf16 peak, measured by us (`estimate.MFU`).
- bandwidth: 0.77 of the data sheet's. Llama-3.1-8B in bf16, one request at a time, vLLM 0.23 on an A100-40G:
  about 75 tokens/s (https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on).
- busy, vLLM before 0.6 (the paper's time): 38/67. In vLLM's own profile of Llama-3-8B on an H100, 38 % of the
  time was the model's, 29 % the scheduler's and 33 % the HTTP server's, which no stage here has
  (https://blog.vllm.ai/2024/09/05/perf-update.html). With it, this module gives 23.1 requests/s for 256
  tokens in and out of Llama-3-8B on an H100; its developers measured 24.3 then, offline (vLLM pull request
  7117).
- busy, vLLM since 0.6: 0.81. Lambda measured 8,088 tokens/s for Llama-3.1-8B, 256 sequences, ShareGPT, with
  0.6.0 and 3,032 with 0.5.4 (https://github.com/LambdaLabsML/vllm-benchmark, its page for
  version 0; the card is not named beside the numbers, an H100 by its speed); this module without `busy`
  gives about 10,000. Newer versions may do better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scalequest.estimate import CONTEXT, GIB, MFU, Architecture, Device

HALF = 2  # bytes of a number in bf16 or fp16
CACHE_BLOCK = 16  # tokens of keys and values that vLLM gives a sequence at a time


@dataclass(frozen=True)
class Efficiency:
    """Shares of what the hardware could do; the module's text has their sources.

    Attributes:
        arithmetic: of peak FLOP/s.
        bandwidth: of the memory's bytes per second.
        busy: of the time, in which the engine keeps the GPU at work.
    """

    arithmetic: float = MFU
    bandwidth: float = 0.77
    busy: float = 0.81


VLLM_TODAY = Efficiency()
VLLM_2024 = Efficiency(busy=38 / 67)


@dataclass(frozen=True)
class Engine:
    """A model copy on its GPUs.

    Attributes:
        model: its sizes.
        device: each of its GPUs.
        gpus: that share the copy (tensor_parallel_size).
        length: longest sequence in tokens (max_model_len).
        utilization: share of the GPU's memory that the engine takes (gpu_memory_utilization).
        most: sequences in flight; None is vLLM's default on the device (max_num_seqs).
        head: a language model's head; a scorer's is one row.
    """

    model: Architecture
    device: Device
    gpus: int = 1
    length: int = 4096
    utilization: float = 0.92
    most: int | None = None
    head: bool = True

    @property
    def weights(self) -> float:
        """Bytes of all weights."""
        return float(HALF * self.model.parameters(self.head))

    @property
    def token(self) -> int:
        """Bytes of the keys and values of one token in all blocks."""
        return 2 * HALF * self.model.num_hidden_layers * self.model.keys

    @property
    def room(self) -> float:
        """Bytes for keys and values on all its GPUs; below 0 if the weights alone do not fit."""
        each = self.utilization * self.device.memory * GIB - CONTEXT
        return self.gpus * each - self.weights

    @property
    def fits(self) -> bool:
        """Whether one sequence of the full length has room, without which vLLM does not start."""
        return self.room >= self.length * self.token

    def concurrency(self, tokens: float) -> int:
        """Sequences of `tokens` tokens each that run together: as many as have room, at most `most`."""
        blocks = -(-tokens // CACHE_BLOCK)
        return int(min(self.most or self.device.sequences, self.room // (blocks * CACHE_BLOCK * self.token)))

    def flops(self, context: float) -> float:
        """FLOPs of one token that attends to `context` tokens."""
        matrices = self.model.parameters(self.head) - self.model.embedding * (not self._tied)
        attention = 4.0 * self.model.num_hidden_layers * self.model.hidden_size * context
        return 2.0 * matrices + attention

    @property
    def _tied(self) -> bool:
        """Whether the embedding is the head, and so computed with."""
        return self.head and self.model.tie_word_embeddings

    def seconds(self, tokens: float, context: float, read: float, shares: Efficiency) -> float:
        """Seconds of one pass over `tokens` tokens, on all its GPUs at once, without the engine's own time.

        Args:
            tokens: that are computed.
            context: tokens that each attends to.
            read: bytes of keys and values that are read, beside the weights.
            shares: of peak and bandwidth.
        """
        arithmetic = tokens * self.flops(context) / (self.gpus * self.device.peak * 1e12 * shares.arithmetic)
        memory = (self.weights + read) / (self.gpus * self.device.reads * 1e9 * shares.bandwidth)
        return max(arithmetic, memory) + self._exchange(tokens)

    def _exchange(self, tokens: float) -> float:
        """Seconds of the two sums over GPUs that every block has."""
        sent = 2 * (self.gpus - 1) / self.gpus * HALF * tokens * self.model.hidden_size
        return 2 * self.model.num_hidden_layers * sent / (self.device.bandwidth * 1e9)


@dataclass(frozen=True)
class Cost:
    """What a stage's model computes.

    Attributes:
        read: tokens of prompts that are computed.
        written: tokens that are sampled.
        together: sequences that run together; for scoring, 0.
        step: seconds of one decoding step; for scoring, 0.
        hours: GPU-hours.
    """

    read: float
    written: float
    together: int
    step: float
    hours: float


def sampling_cost(
    engine: Engine,
    rows: float,
    prompt: float,
    output: float,
    shares: Efficiency = VLLM_TODAY,
    *,
    samples: int = 1,
    cached: float = 0.0,
    shared: bool = True,
    batch: int | None = None,
    limit: int = 0,
) -> Cost:
    """The cost of sampling.

    Args:
        engine: a model copy that fits.
        rows: prompts.
        prompt: tokens of one.
        output: mean tokens of a completion.
        shares: what the hardware reaches.
        samples: completions per prompt.
        cached: tokens at the start of all prompts alike, computed once.
        shared: the samples of a prompt share its computation (prefix caching).
        batch: completions per call of the engine, if a call waits for its last one before the next begins.
        limit: tokens that the last one of a call is taken to have (max_tokens).
    """
    read = rows * (1 if shared else samples) * max(prompt - cached, 1.0)
    written = rows * samples * output
    context = prompt + output / 2  # on average, while it grows
    together = engine.concurrency(prompt + output)
    step = engine.seconds(together, context, together * context * engine.token, shares)
    reached = engine.gpus * engine.device.peak * 1e12 * shares.arithmetic
    seconds = written / together * step + read * engine.flops(prompt / 2) / reached
    if batch:  # the longest run on nearly alone, for as long as all weights take to read
        alone = engine.seconds(1, prompt + limit, (prompt + limit) * engine.token, shares)
        seconds += rows * samples / batch * max(limit - output, 0.0) * alone
    return Cost(read, written, together, step, engine.gpus * seconds / shares.busy / 3600)


def scoring_cost(
    engine: Engine, rows: float, tokens: float, shares: Efficiency = VLLM_TODAY, *, together: int = 1
) -> Cost:
    """The cost of one number per sequence of `tokens` tokens.

    `busy` is left out: nothing is scheduled between tokens.

    Args:
        engine: a model copy that fits, with a scorer's head.
        rows: sequences.
        tokens: of one.
        shares: what the hardware reaches.
        together: sequences of one pass (the paper's authors: one).
    """
    seconds = rows / together * engine.seconds(together * tokens, tokens / 2, 0.0, shares)
    return Cost(rows * tokens, 0.0, 0, 0.0, engine.gpus * seconds / 3600)


def changes(engine: Engine, devices: dict[str, Device]) -> list[str]:
    """What to change, each by itself, if an engine does not fit.

    Args:
        engine: one that does not fit.
        devices: others that could be taken, by name.
    """
    said = []
    for gpus in (2, 4, 8):
        heads = engine.model.num_attention_heads % gpus == 0
        if gpus > engine.gpus and heads and replace(engine, gpus=gpus).fits:
            said.append(f"engine.tensor_parallel_size: {gpus}")
            break
    if (length := int(engine.room // engine.token)) >= CACHE_BLOCK:
        said.append(f"engine.max_model_len: {length} at most")
    others = [name for name, device in devices.items() if replace(engine, device=device).fits]
    if others:
        said.append(f"another GPU: {' or '.join(others)}")
    return said or ["a smaller model, or more GPUs than one machine has"]
