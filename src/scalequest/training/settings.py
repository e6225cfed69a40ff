"""The settings of the training stages' data, which `--help` prints without importing torch.

The trainer's own settings are TRL's, and stand beside the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalequest.config import ConfigError, TrainRunOptions, option, required
from scalequest.config.ranges import COUNT, NOT_NEGATIVE, SHARE

MAJORITY = "majority"  # in the place of a column with reference answers
PAPER_MAX_LENGTH = 256  # docs/method.md 1


@dataclass(frozen=True)
class TrainingData(TrainRunOptions):
    """The settings of a training stage's data."""

    input: list[str] = required(
        "stage folders, files or hub:owner/name to train on, one after the other", fingerprint=False
    )
    chat_format: str = required("chat format of the model: a family, a YAML file or auto", fingerprint=False)
    columns: dict[str, str] = option(
        None, "mapping from our column names to those of the input", default_factory=dict
    )
    draw: int | None = option(None, "train on this many rows, drawn at random with `seed`", within=COUNT)
    draw_tokens: int | None = option(
        None,
        "train on rows drawn at random with `seed` until they have this many tokens, prompts included: for "
        "comparisons at equal compute",
        within=COUNT,
    )
    holdout: int = option(
        0,
        "number of rows, drawn with `seed`, that are held out and evaluated at the end",
        within=NOT_NEGATIVE,
    )
    prepare_only: bool = option(
        False, "only tokenise into output_dir; without a GPU, also set use_cpu", fingerprint=False
    )
    sample_every: int = option(
        0,
        "number of steps between sample texts in the log; 0: none; not available under ZeRO-3",
        fingerprint=False,
        within=NOT_NEGATIVE,
    )
    sample_count: int = option(4, "number of sample texts each time", fingerprint=False, within=COUNT)
    sample_tokens: int = option(
        256, "maximum number of tokens of a sample text", fingerprint=False, within=COUNT
    )


@dataclass(frozen=True)
class SolutionData(TrainingData):
    """The training data of SFT: rows of `query` and `response`."""

    thinking: Literal["keep", "strip"] = option(
        "keep", "thoughts at the head of a response, between <think> and </think>: train on them, or not"
    )


@dataclass(frozen=True)
class QuestionData(TrainingData):
    """The training data of QFT: rows of `question`."""

    paper_exact: bool = option(
        False,
        f"like the authors' code: cut anywhere into chunks of {PAPER_MAX_LENGTH} tokens, "
        "two EOS per question",
    )


@dataclass(frozen=True)
class QuestionPairs(TrainingData):
    """The training data of a preference loss: rows of `chosen` and `rejected`, both bare questions."""

    shuffle_pairs: bool = option(
        False, "swap the sides of about half of the pairs: a control that must show no gain"
    )


@dataclass(frozen=True)
class PreferenceData(QuestionPairs):
    """The training data of QPO."""

    chosen_drop: float = option(
        10.0,
        "warn if the log-probability of chosen questions falls by more than this many nats",
        fingerprint=False,
        within=NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class FailRates(TrainingData):
    """The training data of the scorer: rows of `question` with `fail_rate`, or with `answers` to grade."""

    reference: str = option(
        "answer",
        "column with the reference answer, for rows without fail_rate; `majority`: the most frequent answer",
    )
    answer_after: str = option(
        "####", "the reference is the text after the last occurrence of this marker, if it occurs"
    )


@dataclass(frozen=True)
class SolutionPairs(TrainingData):
    """The training data of the reward model: rows of `question`, `responses`, `answers`, `finish_reasons`."""

    reference: str = option(
        MAJORITY,
        "column with the reference answer; `majority`: the most frequent answer among a question's samples",
    )
    answer_after: str = option(
        "####", "the reference is the text after the last occurrence of this marker, if it occurs"
    )
    min_agreement: float = option(
        0.6, "with `majority`: the minimum share of the samples that must agree on it", within=SHARE
    )
    pairs_per_question: int = option(2, "maximum number of pairs made from one question", within=COUNT)


@dataclass(frozen=True)
class MergeConfig:
    """What to merge, and the output folder."""

    output_dir: str = required("output folder for the merged model")
    adapter: str | None = option(None, "folder of a LoRA adapter")
    checkpoint: str | None = option(None, "folder of a checkpoint saved in shards by DeepSpeed or FSDP")
    model_name_or_path: str | None = option(
        None, "base model; default: the one named in adapter_config.json or in the checkpoint's config"
    )
    chat_format: str | None = option(
        None, "chat format that the adapter was trained with, if it added a token to its base model"
    )
    dtype: Literal["bfloat16", "float16", "float32"] = option("bfloat16", "dtype of the merged weights")
    scorer: bool = option(False, "the model is a scorer: a sequence classifier with one label")

    def __post_init__(self) -> None:
        """Require exactly one of adapter and checkpoint."""
        if (self.adapter is None) == (self.checkpoint is None):
            raise ConfigError("set either adapter or checkpoint")
