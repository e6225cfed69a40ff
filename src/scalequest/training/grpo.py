"""GRPO: reinforcement learning of solvers and of question generators (Shao et al., arXiv 2402.03300).

For each prompt the model writes a group of texts; each text's reward, relative to its group, says how much
more or less likely the text should become. A solver is rewarded by the grader, a generator by a score of its
questions. TRL's GRPOTrainer turns prompts into ids in a single method, `_tokenize_prompts`. Our prompts
already are ids, so this method returns them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

import torch
from trl import GRPOConfig, GRPOTrainer

from scalequest.chat import BoundFormat, FormatError, generator_template, solver_template
from scalequest.config import ConfigError
from scalequest.config.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE_ABOVE_0, Range
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.records import Row, model_fingerprint
from scalequest.training import data
from scalequest.training.difficulty_scorer import fail_rate_of
from scalequest.training.finishing import Trained
from scalequest.training.identity import Identity
from scalequest.training.loading import make_self_loading
from scalequest.training.preparation import Prepared, read_rows
from scalequest.training.rollout_rewards import (
    Reward,
    batch_of,
    checked,
    function_of,
    open_rewards,
    short_name,
)
from scalequest.training.rollout_settings import AGREEMENT, GRADER, SCORER, RolloutData
from scalequest.training.settings import MAJORITY
from scalequest.training.stage import Rendering, TrainingStage

GRPO_VERSION = 1  # increase by hand when the same settings give other weights
_REFUSED = ("log_completions", "chat_template_kwargs", "max_tool_calling_iterations")


@dataclass
class RolloutConfig(ByHardware, GRPOConfig):
    """TRL's GRPOConfig; `max_length` bounds prompt and completion together."""

    precompute_ref_log_probs: ClassVar[bool] = False  # the reference reads texts that did not exist before
    max_length: int = field(
        default=1024,
        metadata={
            "help": "Maximum number of tokens of a prompt and its completion; a question whose "
            "prompt leaves less "
            "than max_completion_length is dropped.",
            "within": COUNT,
        },
    )
    beta: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the KL divergence from the start; 0: no reference.",
            "within": NOT_NEGATIVE,
        },
    )
    num_generations: int = field(
        default=8, metadata={"help": "Texts per prompt, a group.", "within": Range(least=2)}
    )
    max_completion_length: int = field(
        default=512, metadata={"help": "Maximum number of tokens of a completion.", "within": COUNT}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Temperature of the rollouts.", "within": POSITIVE}
    )
    top_p: float = field(
        default=1.0, metadata={"help": "Nucleus probability mass of the rollouts.", "within": SHARE_ABOVE_0}
    )
    num_iterations: int = field(
        default=1, metadata={"help": "Passes over each generation batch.", "within": COUNT}
    )
    epsilon: float = field(
        default=0.2, metadata={"help": "Clipping of the probability ratio.", "within": POSITIVE}
    )

    @property
    def passes(self) -> Passes:
        """What the trainer computes; a reference only with beta."""
        return Passes(reference=self.beta > 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in _REFUSED:
            if getattr(self, key):
                raise ConfigError(
                    f"{key}: not supported; remove it (sample_every shows what the model writes)"
                )
        if self.max_completion_length >= self.max_length:
            raise ConfigError(
                f"max_length: {self.max_length} leaves no room for a prompt beside max_completion_length "
                f"{self.max_completion_length}"
            )


def identity_of(args: RolloutData, _: Any) -> dict[str, Any]:
    """Return what else decides the rewards: the user's functions and the scoring models."""
    functions = [function_of(name).identity for name in args.reward if ":" in name]
    models = {SCORER: args.scorer, AGREEMENT: args.solver}
    read = {name: model_fingerprint(model) for name, model in models.items() if name in args.reward and model}
    return {"reward_functions": functions, "reward_models": read}


# ------------------------------------------------------------------------------------------------------- rows


def question_row(row: Row, args: RolloutData) -> Row:
    """Return a question with its reference and pass rate, either of which is None if the row has none.

    Raises:
        ConfigError: the row lacks a column that the settings name.
    """
    from scalequest.grading import majority  # imports math-verify and sympy, which takes seconds
    from scalequest.grading.extraction import reference_in

    by_majority, graded = args.reference == MAJORITY, GRADER in args.reward
    bounded = (args.min_pass_rate, args.max_pass_rate) != (0, 1)
    _check_columns(row, ["answers" if by_majority else args.reference] if graded else [], "reference")
    _check_columns(row, [args.pass_rate] if args.pass_rate else [], "pass_rate")
    wanted, rate = majority(row["answers"]) if by_majority and "answers" in row else (None, None)
    if not by_majority and row.get(args.reference) is not None:
        wanted = reference_in(str(row[args.reference]), args.answer_after)
    if args.pass_rate:
        rate = row[args.pass_rate]
    elif bounded and rate is None:
        rate = 1 - fail_rate_of(row, args.reference, args.answer_after)
    plain = {
        key: value for key, value in row.items() if value is None or isinstance(value, str | int | float)
    }
    return {**plain, "reference": wanted, "pass_rate": rate}


def _check_columns(row: Row, columns: Sequence[str], key: str) -> None:
    for column in columns:
        if column not in row:
            raise ConfigError(
                f"row {row['id']}: no '{column}'; set `{key}` to the name of a column that there is"
            )


def render_question(
    row: Row, chat: BoundFormat, *, room: int, band: tuple[float, float], graded: bool
) -> dict[str, Any]:
    """Render a prompt for a solver.

    Raises:
        FormatError: the question has no reference, its pass rate is unknown or outside the band, or the
            format cannot hold it.
        DoesNotFit: the prompt is longer than `room` tokens.
    """
    if graded and row["reference"] is None:
        raise FormatError("no_reference")
    if band != (0, 1) and row["pass_rate"] is None:
        raise FormatError("no_pass_rate")
    if row["pass_rate"] is not None and not band[0] <= row["pass_rate"] <= band[1]:
        raise FormatError("outside_band")
    return _prompt(row, chat.solve_prompt_ids(row["question"]), room)


def render_header(row: Row, chat: BoundFormat, *, room: int) -> dict[str, Any]:
    """Render the prompt of a generator: the bare header of a user turn."""
    return _prompt(row, chat.question_prefix_ids, room)


def _prompt(row: Row, ids: Sequence[int], room: int) -> dict[str, Any]:
    if len(ids) > room:
        raise data.DoesNotFit
    return {"prompt_ids": list(ids), "row": json.dumps(row, ensure_ascii=False)}


def render_prompts(identity: Identity) -> Rendering:
    """Render the prompts of the run's task."""
    args, trainer = identity.args, identity.training_args
    choices: dict[str, Any] = {"room": trainer.max_length - trainer.max_completion_length}
    if args.task == "question":

        def numbered() -> list[Row]:
            return [{"id": f"prompt-{number:06d}"} for number in range(args.prompts)]

        return Rendering(partial(render_header, **choices), (), choices, numbered)
    choices |= {"band": (args.min_pass_rate, args.max_pass_rate), "graded": GRADER in args.reward}

    def rows() -> list[Row]:
        return [question_row(row, args) for row in read_rows(identity, ("question",))]

    return Rendering(partial(render_question, **choices), ("question",), choices, rows)


# ---------------------------------------------------------------------------------------------------- trainer


class TokenGRPOTrainer(GRPOTrainer):
    """GRPOTrainer for prompts that already are token ids, whose rollouts end at the format's stop tokens.

    Attributes:
        rollouts: the batch of the last micro-step.
    """

    def __init__(
        self, stop_ids: Sequence[int], rewards: Sequence[Callable[..., Any]], **options: Any
    ) -> None:
        if options["args"].use_vllm:
            more = options["args"].generation_kwargs or {}
            options["args"].generation_kwargs = {**more, "stop_token_ids": list(stop_ids)}
        super().__init__(reward_funcs=list(rewards), **options)
        self.eos_token_ids = list(stop_ids)
        if not self.use_vllm:
            self.generation_config.eos_token_id = self.generation_kwargs["eos_token_id"] = list(stop_ids)
        self.rollouts: Mapping[str, Any] = {}

    def train(self, *more: Any, **named: Any) -> Any:
        """Train as TRL does; a run that resumes within a generation batch keeps its place in it."""
        if resumed := named.get("resume_from_checkpoint"):
            done = int(str(resumed).rpartition("-")[2])
            self._step = done * self.args.gradient_accumulation_steps
        return super().train(*more, **named)

    def batch_of(self, _: Any) -> Mapping[str, Any]:
        """Return the last micro-step's ids, which is what a faulty loss was computed from."""
        ids = [self.rollouts[key] for key in ("prompt_ids", "completion_ids") if key in self.rollouts]
        return {**self.rollouts, **({"input_ids": torch.cat(ids, dim=1)} if ids else {})}

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        self.rollouts = super()._prepare_inputs(generation_batch)
        return self.rollouts

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}


def reward_function(name: str, reward: Reward, identity: Identity) -> Callable[..., list[float | None]]:
    """Return a reward in the form in which TRL calls it."""
    chat, args = identity.chat, identity.args

    def call(
        completion_ids: Sequence[Sequence[int]], row: Sequence[str], trainer_state: Any, **_: Any
    ) -> list[float | None]:
        step = trainer_state.global_step
        seed = (identity.training_args.seed + step * 1_000_003 + identity.training_args.process_index) % 2**32
        rollouts = batch_of([json.loads(one) for one in row], completion_ids, chat, args.task, seed)
        return checked(name, reward, rollouts, step + 1)

    call.__name__ = short_name(name)
    return call


def grpo_trainer(prepared: Prepared) -> GRPOTrainer:
    """Make the trainer, which loads the model itself.

    Args:
        prepared: the prompts.

    Raises:
        ConfigError: the model has no pad token of its own, or settings contradict each other.
    """
    identity, args = prepared.identity, prepared.identity.training_args
    _check_batches(identity)
    train, holdout = (
        None if rows is None else rows.rename_column("prompt_ids", "prompt")
        for rows in data.load(prepared.folder)
    )
    assert train is not None, "no rows to train on"
    if len(train) < args.generation_batch_size // args.num_generations:
        raise ConfigError(
            f"input: {len(train)} prompts are fewer than a generation batch takes "
            f"({args.generation_batch_size // args.num_generations}): lower per_device_train_batch_size or "
            "gradient_accumulation_steps"
        )
    stop_ids = identity.stage.stop_ids_of
    assert stop_ids is not None, "a model that writes texts"
    rewards = [
        reward_function(name, reward, identity)
        for name, reward in zip(identity.args.reward, open_rewards(identity.args, identity.chat), strict=True)
    ]
    made = partial(TokenGRPOTrainer, list(stop_ids(identity.chat)), rewards)
    trainer: GRPOTrainer = make_self_loading(made, identity, train, holdout)  # type: ignore[arg-type]
    return trainer


def _check_batches(identity: Identity) -> None:
    args = identity.training_args
    weights = args.reward_weights
    if weights is not None and len(weights) != len(identity.args.reward):
        raise ConfigError(f"reward_weights: {len(weights)} weights for {len(identity.args.reward)} rewards")
    group = args.num_generations_eval or args.num_generations
    if identity.args.holdout and args.per_device_eval_batch_size * args.world_size % group:
        raise ConfigError(
            f"per_device_eval_batch_size: {args.per_device_eval_batch_size} x {args.world_size} "
            "process(es) must be a "
            f"multiple of the {group} texts per prompt, because held-out prompts are evaluated"
        )


def measure_rewards(trained: Trained) -> str:
    """Return the mean reward on the held-out prompts, as evaluated by `train`, for the card."""
    trainer = trained.trainer
    if trainer.eval_dataset is None:
        return ""
    found = next(entry for entry in reversed(trainer.state.log_history) if "eval_reward" in entry)
    group = trainer.num_generations_eval
    return (
        f"On {len(trainer.eval_dataset)} held-out prompts with {group} texts each, the mean reward is "
        f"{found['eval_reward']:.3f}; {100 * found['eval_completions/clipped_ratio']:.1f} % of the "
        "texts were cut off."
    )


_SOLVE = TrainingStage(
    name="grpo",
    version=GRPO_VERSION,
    data=RolloutData,
    config=RolloutConfig,
    rendering_of=render_prompts,
    trainer_of=grpo_trainer,
    note="Solves problems step by step (GRPO with rewards for its own solutions).",
    stop_ids_of=attrgetter("solve_stop_ids"),
    chat_template_of=solver_template,
    measure=measure_rewards,
    identity_of=identity_of,
    rollouts=True,
)
GRPO = {
    "solve": _SOLVE,
    "question": replace(
        _SOLVE,
        note="Writes questions after the bare header of a user turn (GRPO with rewards for its own "
        "questions); it is not meant for answering them.",
        stop_ids_of=attrgetter("question_stop_ids"),
        chat_template_of=generator_template,
    ),
}
