"""The cost of sampling and scoring from first principles: memory, concurrent sequences and GPU-hours.

A forward pass takes the time of its arithmetic (2 FLOPs per weight and token, plus 4 FLOPs per block and
hidden dimension for each pair of a token and a token that it attends to) or of its memory reads (all weights
once, plus the keys and values of all sequences), whichever is longer. Prefilling and scoring are passes over
many tokens. Decoding takes one pass per token of the concurrent sequences, whose number is limited by the
memory that the weights leave for keys and values. The engine keeps the GPU busy for a fraction of the time.

`Efficiency` holds the three fractions. They are the same for every stage, and none was fitted to a stage:

- arithmetic: 0.32 of the dense bf16 peak, which we measured (`estimate.MFU`).
- bandwidth: 0.77 of the value in the data sheet. Source: Llama-3.1-8B in bf16, one request at a time, vLLM
  0.23 on an A100-40G, about 75 tokens/s (https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on).
- busy, for vLLM before 0.6 (at the time of the paper): 38/67. In vLLM's own profile of Llama-3-8B on an
  H100, the model took 38 % of the time, the scheduler 29 %, and the HTTP server, which no stage uses, 33 %
  (https://blog.vllm.ai/2024/09/05/perf-update.html). With this value, this module predicts 23.1 requests/s
  for Llama-3-8B on an H100 with 256 input and 256 output tokens; its developers measured 24.3 offline at that
  time (vLLM pull request 7117).
- busy, for vLLM since 0.6: 0.81. Lambda measured 8,088 tokens/s for Llama-3.1-8B with 0.6.0 on ShareGPT with
  256 sequences, and 3,032 with 0.5.4 (https://github.com/LambdaLabsML/vllm-benchmark, its page for version 0;
  the page does not name the GPU, which judging by its speed is an H100); without `busy`, this module predicts
  about 10,000. Newer versions may be faster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scalequest.estimate import CONTEXT, GIB, MFU, Architecture, Device

HALF = 2  # bytes of a number in bf16 or fp16
CACHE_BLOCK = 16  # tokens per block of keys and values in vLLM


@dataclass(frozen=True)
class Efficiency:
    """Fractions of the hardware's peak performance; the module's docstring gives their sources.

    Attributes:
        arithmetic: fraction of the peak FLOP/s.
        bandwidth: fraction of the memory bandwidth.
        busy: fraction of the time in which the engine keeps the GPU busy.
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
        model: the sizes of the model.
        device: the type of its GPUs.
        gpus: number of GPUs that share the copy (tensor_parallel_size).
        length: length of the longest sequence in tokens (max_model_len).
        utilization: fraction of the GPU's memory that the engine uses (gpu_memory_utilization).
        most: maximum number of concurrent sequences (max_num_seqs); None for vLLM's default on the device.
        head: whether it has a language model's head; a scorer's head has a single row.
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
        """Size of all weights in bytes."""
        return float(HALF * self.model.parameters(self.head))

    @property
    def token(self) -> int:
        """Size of the keys and values of one token, over all blocks, in bytes."""
        return 2 * HALF * self.model.num_hidden_layers * self.model.keys

    @property
    def room(self) -> float:
        """Memory for keys and values on all of its GPUs in bytes; negative if the weights do not fit."""
        each = self.utilization * self.device.memory * GIB - CONTEXT
        return self.gpus * each - self.weights

    @property
    def fits(self) -> bool:
        """Whether a sequence of the full length fits; otherwise, vLLM does not start."""
        return self.room >= self.length * self.token

    def concurrency(self, tokens: float) -> int:
        """Return how many sequences of `tokens` tokens each can run concurrently, at most `most`."""
        blocks = -(-tokens // CACHE_BLOCK)
        return int(min(self.most or self.device.sequences, self.room // (blocks * CACHE_BLOCK * self.token)))

    def flops(self, context: float) -> float:
        """Return the FLOPs of one token that attends to `context` tokens."""
        matrices = self.model.parameters(self.head) - self.model.embedding * (not self._tied)
        attention = 4.0 * self.model.num_hidden_layers * self.model.hidden_size * context
        return 2.0 * matrices + attention

    @property
    def _tied(self) -> bool:
        """Whether the embedding is also the head, and thus takes part in the arithmetic."""
        return self.head and self.model.tie_word_embeddings

    def seconds(self, tokens: float, context: float, read: float, shares: Efficiency) -> float:
        """Return the seconds of one pass over `tokens` tokens on all of its GPUs, without engine overhead.

        Args:
            tokens: number of tokens in the pass.
            context: number of tokens to which each of them attends.
            read: bytes of keys and values that are read in addition to the weights.
            shares: fractions of the peak performance.
        """
        arithmetic = tokens * self.flops(context) / (self.gpus * self.device.peak * 1e12 * shares.arithmetic)
        memory = (self.weights + read) / (self.gpus * self.device.reads * 1e9 * shares.bandwidth)
        return max(arithmetic, memory) + self._exchange(tokens)

    def _exchange(self, tokens: float) -> float:
        """Return the seconds of the two all-reduce operations of every block."""
        sent = 2 * (self.gpus - 1) / self.gpus * HALF * tokens * self.model.hidden_size
        return 2 * self.model.num_hidden_layers * sent / (self.device.bandwidth * 1e9)


@dataclass(frozen=True)
class Cost:
    """The cost of a stage's model.

    Attributes:
        read: number of input tokens that are computed.
        written: number of sampled tokens.
        together: number of concurrent sequences; 0 for scoring.
        step: seconds of one decoding step; 0 for scoring.
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
    """Return the cost of sampling.

    Args:
        engine: a model copy that fits.
        rows: number of prompts.
        prompt: length of a prompt in tokens.
        output: mean length of a completion in tokens.
        shares: fractions of the peak performance.
        samples: number of completions per prompt.
        cached: number of tokens at the start that all prompts have in common, which are computed once.
        shared: whether the samples of a prompt share its computation (prefix caching).
        batch: number of completions per call of the engine, if each call waits for its last completion.
        limit: assumed length of the last completion of a call in tokens (max_tokens).
    """
    read = rows * (1 if shared else samples) * max(prompt - cached, 1.0)
    written = rows * samples * output
    context = prompt + output / 2  # the mean, because it grows
    together = engine.concurrency(prompt + output)
    step = engine.seconds(together, context, together * context * engine.token, shares)
    reached = engine.gpus * engine.device.peak * 1e12 * shares.arithmetic
    seconds = written / together * step + read * engine.flops(prompt / 2) / reached
    if batch:  # the longest completions continue almost alone, limited by reading the weights
        alone = engine.seconds(1, prompt + limit, (prompt + limit) * engine.token, shares)
        seconds += rows * samples / batch * max(limit - output, 0.0) * alone
    return Cost(read, written, together, step, engine.gpus * seconds / shares.busy / 3600)


def scoring_cost(
    engine: Engine, rows: float, tokens: float, shares: Efficiency = VLLM_TODAY, *, together: int = 1
) -> Cost:
    """Return the cost of scoring each sequence with one number.

    `busy` is not used, because nothing is scheduled between tokens.

    Args:
        engine: a model copy that fits, with a scorer's head.
        rows: number of sequences.
        tokens: length of a sequence in tokens.
        shares: fractions of the peak performance.
        together: number of sequences per pass (one in the paper's code).
    """
    seconds = rows / together * engine.seconds(together * tokens, tokens / 2, 0.0, shares)
    return Cost(rows * tokens, 0.0, 0, 0.0, engine.gpus * seconds / 3600)


def changes(engine: Engine, devices: dict[str, Device]) -> list[str]:
    """Return changes that, each on its own, make an engine fit.

    Args:
        engine: an engine that does not fit.
        devices: other GPUs that could be used, by name.
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
    return said or ["a smaller model, or more GPUs than a single machine has"]
