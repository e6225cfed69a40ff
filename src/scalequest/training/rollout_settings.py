"""The settings of GRPO's prompts and rewards, which `--help` prints without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT, SHARE, Range
from scalequest.training.settings import MAJORITY, TrainingData

GRADER, FORMAT, SCORER, AGREEMENT = "grader", "format", "scorer", "agreement"
OF_SOLUTIONS, OF_QUESTIONS = (GRADER, FORMAT, SCORER), (SCORER, AGREEMENT)


@dataclass(frozen=True)
class RolloutData(TrainingData):
    """The prompts of GRPO, and what the texts are rewarded by."""

    input: list[str] = option(
        None,
        "task solve: stage folders, files or hub:owner/name with the questions, one after the other",
        fingerprint=False,
        default_factory=list,
    )
    task: Literal["solve", "question"] = option(
        "solve", "solve: the model solves the questions of the input; question: it writes questions"
    )
    reward: list[str] = option(
        None,
        "what texts are rewarded by, added up with reward_weights: grader, format, scorer (task "
        "solve); scorer, "
        "agreement (task question); FILE.py:FUNCTION (both), which takes rows and texts and returns "
        "a number for each",
        default_factory=list,
    )
    # Questions to solve
    reference: str = option(
        MAJORITY,
        "reward grader: column with the reference answer; `majority`: the most frequent of the row's answers",
    )
    answer_after: str = option(
        "####", "the reference is the text after the last occurrence of this marker, if it occurs"
    )
    pass_rate: str | None = option(
        None,
        "column with the share of earlier solutions that were right, or with their agreement; null: "
        "computed from "
        "the row's answers",
    )
    min_pass_rate: float = option(0.0, "leave out questions with a lower pass rate", within=SHARE)
    max_pass_rate: float = option(1.0, "leave out questions with a higher pass rate", within=SHARE)
    # Questions to write
    prompts: int = option(1000, "task question: number of prompts per epoch", within=COUNT)
    # Models that score
    scorer: str | None = option(
        None, "reward scorer: a reward model or difficulty scorer, a folder or hub id", fingerprint=False
    )
    scorer_format: str | None = option(
        None, "reward scorer: its chat format; null: the trained model's", fingerprint=True
    )
    solver: str | None = option(None, "reward agreement: the solver, a folder or hub id", fingerprint=False)
    solver_format: str | None = option(None, "reward agreement: its chat format; null: the trained model's")
    solver_samples: int = option(8, "reward agreement: solutions per question", within=COUNT)
    solver_tokens: int = option(512, "reward agreement: maximum number of tokens of a solution", within=COUNT)
    solver_temperature: float = option(
        0.7, "reward agreement: temperature of the solver", within=Range(above=0, most=2)
    )
    target_agreement: float = option(
        1.0,
        "reward agreement: the agreement that is best; the reward is 1 - |agreement - target|",
        within=SHARE,
    )

    def __post_init__(self) -> None:
        _check_data(self)


def _check_data(args: RolloutData) -> None:
    """Refuse settings that contradict each other, before anything is loaded.

    Raises:
        ConfigError: an unknown reward, a reward without what it needs, or input where there is none.
    """
    known = OF_SOLUTIONS if args.task == "solve" else OF_QUESTIONS
    if not args.reward:
        raise ConfigError(f"reward: name at least one of {', '.join(known)} or FILE.py:FUNCTION")
    for name in args.reward:
        if name not in known and ":" not in name:
            raise ConfigError(
                f"reward: '{name}' is not a reward for task {args.task}: {', '.join(known)} or "
                "FILE.py:FUNCTION"
            )
    for name, key in ((SCORER, "scorer"), (AGREEMENT, "solver")):
        if name in args.reward and not getattr(args, key):
            raise ConfigError(f"{key}: reward {name} needs it: a model folder or hub id")
    if args.task == "solve" and not args.input:
        raise ConfigError("input: name the questions to solve")
    if args.task == "question" and args.input:
        raise ConfigError("input: task question reads none, because every prompt is the same; see `prompts`")
    if args.min_pass_rate > args.max_pass_rate:
        raise ConfigError(f"min_pass_rate: {args.min_pass_rate} is above max_pass_rate {args.max_pass_rate}")
