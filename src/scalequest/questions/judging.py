"""A judge's verdicts on questions: whether each can be solved, how difficult it is, and its topic.

The judge is asked once per question and aspect (paper, Figs. 12 to 14: GPT-4o). Each row holds every verdict
and reply, and the reason for every missing verdict. `evaluation.judged_questions` computes the statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT
from scalequest.engines.base import EngineConfig, Sampling
from scalequest.engines.server import ServerConfig
from scalequest.functions import FunctionKey, called, function_option, needs_function, shown
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.questions.judges import Ask, Judge, Ledger, Said, check_judge, judge_label
from scalequest.questions.levels import LEVELS, read_level, read_topic
from scalequest.questions.prompts import Prompt
from scalequest.questions.solvability import verdict
from scalequest.records import Row, read_inputs, row_seed
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.stage.progress import Gates
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows
COLUMNS = ("generator", "id", "question", "solvable", "difficulty", "topic")
TOPICS = (
    *("arithmetic", "algebra", "geometry", "number theory", "combinatorics", "probability", "trigonometry"),
    "other",
)  # the paper's Fig. 7

Aspect = Literal["solvability", "difficulty", "topic"]
VERDICTS: dict[Aspect, str] = {"solvability": "solvable", "difficulty": "difficulty", "topic": "topic"}


@dataclass(frozen=True)
class JudgePrompts:
    """One prompt file per aspect; an aspect without one is not asked about."""

    solvability: str | None = option(None, "YAML file of the prompt", fingerprint=False)
    difficulty: str | None = option(None, "YAML file of the prompt", fingerprint=False)
    topic: str | None = option(None, "YAML file of the prompt", fingerprint=False)


@dataclass(frozen=True)
class JudgeConfig:
    """The settings of the stage in which a judge measures questions."""

    generators: dict[str, str] = required(
        "sources of questions by label; the others are compared with the first one",
        fingerprint=False,
    )
    judge: Literal["function", "model", "server"] = required(
        "who judges: the function, the model, or the server below"
    )
    question_columns: dict[str, str] = option(
        help="columns of the questions by label, if not a usual name (for pairs: rejected, chosen)",
        default_factory=dict,
    )
    sample: int | None = option(
        None, "number of questions from each source; drawn by seed and id, so equal ids are drawn together",
        within=COUNT,
    )  # fmt: skip
    against: dict[str, str] = option(
        help="verdicts to compare with, by label: another judge's folder of this stage, or a file of labels",
        default_factory=dict,
        fingerprint=False,
    )
    prompts: JudgePrompts = option(help="judge model and server: the prompts", default_factory=JudgePrompts)
    topics: list[str] = option(help="the possible topics", default_factory=lambda: list(TOPICS))
    function: str | None = function_option(
        "judge function",
        "called with a question; returns a map with solvable, difficulty, topic, or some of them",
    )
    model_name_or_path: str | None = option(None, "judge model: a folder or hub id", fingerprint=False)
    model_revision: str | None = option(None, "revision of the model on the hub", fingerprint=False)
    chat_format: str | None = option(
        None, "chat format of the model: a family or a YAML file", fingerprint=False
    )
    sampling: Sampling = option(
        help="judge model and server: sampling settings", default_factory=lambda: Sampling(0.0, 1.0, 2048)
    )
    engine: EngineConfig = option(help="judge model: engine and its settings", default_factory=EngineConfig)
    server: ServerConfig = option(
        help="judge server: the server and its limits", default_factory=ServerConfig
    )
    system: str | None = option(None, "judge server: text of the system turn; null sends none")
    gates: Gates = option(
        help="limits on error rates that stop the run early", default_factory=Gates, fingerprint=False
    )

    def __post_init__(self) -> None:
        if not self.generators:
            raise ConfigError("generators: name at least one source of questions")
        if strange := [label for label in self.question_columns if label not in self.generators]:
            raise ConfigError(f"question_columns: there is no generator '{strange[0]}'")
        check_judge(self)
        if self.judge == "function" and not self.function:
            raise ConfigError(needs_function("judge"))
        if self.judge != "function" and not self.aspects:
            raise ConfigError("prompts: name at least one of solvability, difficulty, topic")
        if "" in map(str.strip, self.topics) or len(set(map(str.casefold, self.topics))) < len(self.topics):
            raise ConfigError("topics: contains an empty or a duplicate topic")

    @property
    def functions(self) -> list[FunctionKey]:
        """The function that judges, if one does."""
        return (
            [FunctionKey("function", self.function or "", ("question",))] if self.judge == "function" else []
        )

    @property
    def aspects(self) -> tuple[Aspect, ...]:
        """The aspects that the judge is asked about; a function may answer all of them."""
        given = to_dict(self.prompts)
        return tuple(aspect for aspect in VERDICTS if self.judge == "function" or given[aspect])

    @property
    def label(self) -> str:
        """The name of the judge in the report."""
        return f"function {self.function}" if self.judge == "function" else judge_label(self)


def read_questions(config: JudgeConfig, run: RunOptions) -> list[Row]:
    """Return the questions of all generators, with the columns generator, id and question.

    Raises:
        ConfigError: a row has no question, or two rows of a generator have the same id.
    """
    rows: list[Row] = []
    for label, source in config.generators.items():
        column = config.question_columns.get(label)
        own = read_inputs(
            [source], "question", columns={"question": column} if column else None, limit=run.limit,
            setting=f"question_columns.{label}",
        )  # fmt: skip
        if config.sample is not None:
            order = sorted(own, key=lambda row: row_seed(run.seed, "judge_questions", row["id"]))
            drawn = {row["id"] for row in order[: config.sample]}
            own = [row for row in own if row["id"] in drawn]
        rows += [{"generator": label, "id": row["id"], "question": row["question"]} for row in own]
    return rows


@dataclass(frozen=True)
class Judged:
    """The hooks of `stream`: what is asked for each question, and what happens to it.

    Attributes:
        rows: the result of `read_questions`.
        config: the stage's settings.
        seed: the run's seed.
        prompts: the prompts by aspect; empty for a function.
        function: the user's function, if it is the judge.
        ledger: what a server costs.
        missing: the number of missing verdicts by row number, until the row's block is written.
    """

    rows: Sequence[Row]
    config: JudgeConfig
    seed: int
    prompts: Mapping[Aspect, Prompt] = field(default_factory=dict)
    function: Callable[[str], Any] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    missing: dict[int, int] = field(default_factory=dict)

    def requests(self, number: int) -> list[Ask] | Drop:
        """Return one request per aspect; none for a function."""
        row = self.rows[number]
        if not row["question"].strip():
            return Drop(row, "empty")
        return [self._ask(row, aspect, prompt) for aspect, prompt in self.prompts.items()]

    def _ask(self, row: Row, aspect: Aspect, prompt: Prompt) -> Ask:
        greedy = self.config.sampling.temperature == 0
        seed = None if greedy else row_seed(self.seed, "judge_questions", row["generator"], row["id"], aspect)
        text = prompt.fill(row["question"], topics=self.config.topics)
        return Ask(f"{row['generator']}/{row['id']}/{aspect}", text, seed)

    def row(self, number: int, replies: Sequence[Said]) -> Row | Drop:
        """Return the row with its verdicts; drop it, for the first reason, if there are none."""
        row = self.rows[number]
        if self.function is not None:
            row = row | self._called(row)
        else:
            self.ledger.add(number, replies)
            for aspect, said in zip(self.prompts, replies, strict=True):
                row = row | self._read(aspect, said)
        faults = [row[f"{aspect}_fault"] for aspect in self.config.aspects if f"{aspect}_fault" in row]
        self.missing[number] = sum(fault is not None for fault in faults)
        return Drop(row, faults[0]) if faults and None not in faults else row

    def _read(self, aspect: Aspect, said: Said) -> Row:
        found: Any
        if aspect == "solvability":
            found = verdict(said.whole)
        elif aspect == "difficulty":
            found = read_level(said.whole)
        else:
            found = read_topic(said.whole, self.config.topics)
        return {
            VERDICTS[aspect]: found,
            f"{aspect}_text": said.text,
            f"{aspect}_fault": said.why_none if found is None else None,
        }

    def _called(self, row: Row) -> Row:
        """Return the verdicts of the user's function; it does not judge an aspect whose key it leaves out."""
        assert self.function is not None
        where = f"{self.config.function}: row {row['id']}"
        said = called(str(self.config.function), self.function, f"row {row['id']}", row["question"])
        if not isinstance(said, Mapping) or not said or not said.keys() <= set(VERDICTS.values()):
            known = ", ".join(VERDICTS.values())
            raise ConfigError(f"{where}: returned {shown(said)}, expected a mapping with {known}")
        found: Row = {}
        for aspect, column in VERDICTS.items():
            if column in said:
                found[column] = read_verdict(column, said[column], self.config.topics, where)
                found[f"{aspect}_fault"] = "none_given" if said[column] is None else None
        return found

    def counts(self, numbers: range) -> dict[str, int | float]:
        """Return the number of missing verdicts and the cost of a server."""
        missing = sum(self.missing.pop(number, 0) for number in numbers)
        return {"no_verdict": missing, **self.ledger.counts(numbers)}


def read_verdict(column: str, value: Any, topics: Sequence[str], where: str) -> bool | str | None:
    """Return the verdict of a function or a labeller; case does not matter, and `solvable` may be yes or no.

    Args:
        column: solvable, difficulty or topic.
        value: the verdict as given; None if there is none.
        topics: the possible topics.
        where: the place, for error messages.

    Raises:
        ConfigError: it is not a verdict on this aspect.
    """
    if value is None or (column == "solvable" and isinstance(value, bool)):
        return value
    names = {"solvable": ("yes", "no"), "difficulty": LEVELS, "topic": topics}[column]
    said = " ".join(value.split()).casefold() if isinstance(value, str) else None
    found = next((name for name in names if name.casefold() == said), None)
    if found is None:
        known = "true, false, yes, no" if column == "solvable" else ", ".join(names)
        raise ConfigError(f"{where}: {column} is {value!r}, which is none of: {known}")
    return found == "yes" if column == "solvable" else found


def judge_questions(
    stage: Stage,
    rows: Sequence[Row],
    judge: Judge | None,
    config: JudgeConfig,
    run: RunOptions,
    *,
    prompts: Mapping[Aspect, Prompt] | None = None,
    function: Callable[[str], Any] | None = None,
    beside: Callable[[Mapping[str, Any]], None] | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Have every question judged and finish the stage.

    A missing verdict is null, with its reason in `solvability_fault`, `difficulty_fault` or `topic_fault`:
    `truncated`, `unparsed`, a fault of the chat format or the server, or `none_given` for a function. A
    question is dropped only if it has no verdict at all, for the first of these reasons, or if it is `empty`.
    The receipt counts missing verdicts as `no_verdict`, and a server's `requests` and their `cost`.

    Args:
        stage: an open, unfinished stage.
        rows: the result of `read_questions`.
        judge: the judge; None if a function is called.
        config: the stage's settings.
        run: gives the seed and the block size.
        prompts: the prompts by aspect.
        function: the user's function, if it is the judge.
        beside: writes the report; see `Stage.finish`.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    ledger = Ledger(config.server if config.judge == "server" else None)
    hooks = Judged(rows, config, run.seed, prompts or {}, function, ledger)
    stream(
        stage, len(rows), run.block_size,
        requests=hooks.requests, generate=judge, row=hooks.row, counts=hooks.counts,
        tracker=tracker, gates=config.gates,
    )  # fmt: skip
    text = f"The verdicts of {inline(config.label)} on every question. report.html has the statistics."
    shown = ("generator", "question", *(VERDICTS[aspect] for aspect in config.aspects))
    card = dataset_card("Judged questions", text, to_dict(config), stage.blocks.samples(8), *shown)
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS, beside=beside)
