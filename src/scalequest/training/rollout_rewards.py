"""Rewards of rollouts: by the grader, the format, a model of ours, a solver's agreement, or a function.

Each is a function of the rollouts of one generation batch that returns one number per rollout. A rollout that
was cut off at the maximum length is never correct, well formed or worth scoring, because everything else in
this repository leaves such texts out, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from scalequest.atomic_files import StageError
from scalequest.chat import BoundFormat, FormatError, bind, load_format, load_tokenizer
from scalequest.config import ConfigError
from scalequest.functions import load_function
from scalequest.records import Row
from scalequest.training.rollout_settings import AGREEMENT, FORMAT, GRADER, SCORER

if TYPE_CHECKING:
    from scalequest.engines.base import EngineConfig
    from scalequest.training.rollout_settings import RolloutData


@dataclass(frozen=True)
class Rollouts:
    """Texts that the model wrote in one generation batch.

    Attributes:
        rows: the row of each prompt: for a solver, the input row with `id`, `question` and `reference`,
            without columns that hold lists; for a generator, only `id`.
        texts: the decoded texts, without the stop token.
        stopped: whether each text ended with a stop token.
        seed: the seed for whatever a reward samples.
    """

    rows: Sequence[Row]
    texts: Sequence[str]
    stopped: Sequence[bool]
    seed: int


Rewards = Sequence[float | None]
Reward = Callable[[Rollouts], Rewards]


def short_name(name: str) -> str:
    """Return the name of a reward in metrics: of `my_rewards.py:brevity`, `brevity`."""
    return name.rpartition(":")[2]


def function_of(name: str) -> Any:
    """Import a reward function that a config names; it takes rows and texts.

    Raises:
        ConfigError: it cannot be imported, or takes other arguments.
    """
    return load_function(name, "reward", "rows", "texts")


def open_rewards(args: RolloutData, chat: BoundFormat) -> list[Reward]:
    """Make the reward functions, which load their models when they are first called.

    Args:
        args: names the rewards.
        chat: the chat format of the trained model, which also is that of a scorer or solver without its own.
    """
    makers: dict[str, Callable[[], Reward]] = {
        GRADER: lambda: correct,
        FORMAT: lambda: well_formed,
        SCORER: lambda: Scored(args, chat),
        AGREEMENT: lambda: Agreed(args, chat),
    }
    return [
        makers[name]() if name in makers else partial(_by_function, function_of(name)) for name in args.reward
    ]


def checked(name: str, reward: Reward, rollouts: Rollouts, step: int) -> list[float | None]:
    """Compute a reward and refuse what GRPO could not use: it would learn from garbage, or from nothing.

    Raises:
        StageError: the function raised, or returned another number of values, or a value that is neither a
            finite number nor None.
    """
    where = f"grpo: reward {name} at step {step}"
    try:
        given = list(reward(rollouts))
    except (ConfigError, StageError):
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise StageError(f"{where} raised {said}") from error
    if len(given) != len(rollouts.texts):
        raise StageError(
            f"{where} returned {len(given)} values for {len(rollouts.texts)} texts; it must return "
            "one for each"
        )
    for row, value in zip(rollouts.rows, given, strict=True):
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise StageError(
                f"{where} returned {value!r} for a text of row {row['id']}; it must return finite "
                "numbers, or None "
                "for a text without a reward"
            )
    return [None if value is None else float(value) for value in given]


def _by_function(function: Any, rollouts: Rollouts) -> Rewards:
    found: Rewards = function.call([dict(row) for row in rollouts.rows], list(rollouts.texts))
    return found


def correct(rollouts: Rollouts) -> Rewards:
    """Return 1 for a complete solution whose answer equals the reference, else 0."""
    from scalequest.grading import (
        equivalent,  # imports math-verify and sympy, which takes seconds
        extract,
    )

    answers = [
        extract(text).answer if ended else None
        for text, ended in zip(rollouts.texts, rollouts.stopped, strict=True)
    ]
    return [
        float(answer is not None and equivalent(answer, row["reference"]))
        for answer, row in zip(answers, rollouts.rows, strict=True)
    ]


def well_formed(rollouts: Rollouts) -> Rewards:
    r"""Return 1 for a complete solution with its answer in `\boxed{}`, else 0."""
    from scalequest.grading import extract

    return [
        float(ended and extract(text).rule == "boxed")
        for text, ended in zip(rollouts.texts, rollouts.stopped, strict=True)
    ]


class Scored:
    """The output of a reward model on question and solution, or of a difficulty scorer on the question."""

    def __init__(self, args: RolloutData, chat: BoundFormat) -> None:
        self.args, self.chat = args, chat
        self.scorer: Any = None

    def __call__(self, rollouts: Rollouts) -> Rewards:
        """Score the complete texts; None for the others, and for those that the scorer cannot read."""
        from scalequest.engines.base import Block, Request

        if self.scorer is None:
            self._open()
        requests = []
        for number, (row, text) in enumerate(zip(rollouts.rows, rollouts.texts, strict=True)):
            if rollouts.stopped[number] and (ids := self._ids(row, text)):
                requests.append(Request(str(number), ids, None))
        ((_, scores),) = self.scorer.score([Block(0, requests)])
        values = {int(score.key): score.value for score in scores}
        return [values.get(number) for number in range(len(rollouts.texts))]

    def _open(self) -> None:
        from scalequest.engines.loading import open_scorer

        model, args = self.args.scorer or "", self.args
        self.tokenizer = load_tokenizer(model)
        if args.task == "solve":
            scorer_format = load_format(args.scorer_format, model) if args.scorer_format else self.chat.format
            self.chat = bind(scorer_format, self.tokenizer)
        self.scorer = open_scorer(model, _engine())

    def _ids(self, row: Row, text: str) -> list[int]:
        if self.args.task == "question":
            return list(self.tokenizer(text)["input_ids"]) if text else []
        try:
            prompt, target = self.chat.solve_ids(row["question"], text)
        except FormatError:
            return []
        return [*prompt, *target]


class Agreed:
    """How near a solver's agreement with itself on a question is to a target.

    The reward is 1 - |agreement - target|, in which agreement is the share of all samples that give the most
    frequent answer. With target 1, questions with one clear answer are best; with a lower one, questions at
    the edge of what the solver can do, as in R-Zero (arXiv 2508.05004).
    """

    def __init__(self, args: RolloutData, chat: BoundFormat) -> None:
        self.args, self.chat = args, chat
        self.solver: Any = None

    def __call__(self, rollouts: Rollouts) -> Rewards:
        """Sample solutions to the complete questions; 0 for a text that is none or has no answer."""
        from scalequest.engines.base import Block, Sampling
        from scalequest.samples import sample_requests, sampled

        if self.solver is None:
            self._open()
        sampling = Sampling(self.args.solver_temperature, 1.0, self.args.solver_tokens)
        numbers, requests = [], []
        for number, text in enumerate(rollouts.texts):
            row = {"id": str(number), "question": text}
            try:
                asked = sample_requests(
                    row, range(self.args.solver_samples), rollouts.seed, "grpo", sampling, self.chat
                )
            except FormatError:
                continue
            room = self.solver.context - sampling.max_tokens
            if rollouts.stopped[number] and len(asked[0].prompt_ids) <= room:
                numbers.append(number)
                requests += asked
        found = [0.0] * len(rollouts.texts)
        if not requests:
            return found
        blocks = [Block(0, requests, rollouts.seed)]
        ((_, completions),) = self.solver.generate(blocks, sampling, self.chat.solve_stop_ids)
        for place, number in enumerate(numbers):
            mine = completions[place * self.args.solver_samples : (place + 1) * self.args.solver_samples]
            agreement = sampled(mine, self.chat)["agreement"]
            found[number] = 1 - abs(agreement - self.args.target_agreement) if agreement else 0.0
        return found

    def _open(self) -> None:
        from scalequest.engines.loading import open_generator

        model = self.args.solver or ""
        solver_format = (
            load_format(self.args.solver_format, model) if self.args.solver_format else self.chat.format
        )
        self.chat = bind(solver_format, load_tokenizer(model))
        self.solver = open_generator(model, _engine())
        if self.args.solver_tokens >= self.solver.context:
            raise ConfigError(
                f"solver_tokens: {self.args.solver_tokens} leaves no room for a question in the context of "
                f"{model}, {self.solver.context} tokens"
            )


def _engine() -> EngineConfig:
    """Return the engine for a model beside the trainer: vLLM would take the memory that training needs."""
    from scalequest.engines.base import EngineConfig

    return EngineConfig(name="transformers")


def batch_of(
    rows: Sequence[Row], ids: Sequence[Sequence[int]], chat: BoundFormat, task: str, seed: int
) -> Rollouts:
    """Decode the ids that the model wrote.

    Args:
        rows: the row of each text.
        ids: generated ids of each text; the last is a stop token if it ended by itself.
        chat: the trained model's chat format.
        task: `solve` or `question`.
        seed: of whatever a reward samples.
    """
    stops = frozenset(chat.solve_stop_ids if task == "solve" else chat.question_stop_ids)
    stopped = [bool(one) and one[-1] in stops for one in ids]
    bare = [list(one[:-1] if ended else one) for one, ended in zip(ids, stopped, strict=True)]
    decode = chat.decode_solution if task == "solve" else chat.decode
    return Rollouts(rows, [decode(one) for one in bare], stopped, seed)
