"""What a judge says of questions: whether each can be solved, how difficult it is, and its topic.

Every question is asked about once per aspect (paper, Figs. 12 to 14: GPT-4o). Each row holds every verdict
and reply, and the reason of every verdict that is missing. `evaluation.judged_questions` measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT
from scalequest.engines.base import EngineConfig, Sampling
from scalequest.engines.server import ServerConfig
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
    """The stage that measures questions by a judge."""

    generators: dict[str, str] = required(
        "label: source of its questions, the first one being what the others are compared with",
        fingerprint=False,
    )
    judge: Literal["function", "model", "server"] = required("the function, the model, or the server below")
    question_columns: dict[str, str] = option(
        help="label: column that holds its questions, if it has no usual name (of pairs: rejected, chosen)",
        default_factory=dict,
    )
    sample: int | None = option(
        None, "so many questions of each, drawn by seed and id, so that equal ids are drawn together",
        within=COUNT,
    )  # fmt: skip
    against: dict[str, str] = option(
        help="label: verdicts to compare with, a folder of this stage by another judge or a file of labels",
        default_factory=dict,
        fingerprint=False,
    )
    prompts: JudgePrompts = option(
        help="judge model and server: what they are asked", default_factory=JudgePrompts
    )
    topics: list[str] = option(help="what a topic may be", default_factory=lambda: list(TOPICS))
    function: str | None = option(
        None,
        "judge function: FILE.py:NAME or MODULE:NAME, called with a question; returns a map with solvable, "
        "difficulty, topic, or some of them",
        fingerprint=False,  # what it is called; the recipe adds the hash of what it does
    )
    model_name_or_path: str | None = option(None, "judge model: a folder or hub id", fingerprint=False)
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    chat_format: str | None = option(None, "its chat format: a family or a YAML file", fingerprint=False)
    sampling: Sampling = option(
        help="judge model and server: how", default_factory=lambda: Sampling(0.0, 1.0, 2048)
    )
    engine: EngineConfig = option(help="judge model: on what", default_factory=EngineConfig)
    server: ServerConfig = option(help="judge server: which", default_factory=ServerConfig)
    system: str | None = option(None, "judge server: text of the system turn; None sends none")
    gates: Gates = option(help="rates that end it early", default_factory=Gates, fingerprint=False)

    def __post_init__(self) -> None:
        if not self.generators:
            raise ConfigError("generators: name at least one source of questions")
        if strange := [label for label in self.question_columns if label not in self.generators]:
            raise ConfigError(f"question_columns: there is no generator '{strange[0]}'")
        check_judge(self)
        if self.judge == "function" and not self.function:
            raise ConfigError("judge: function needs function: FILE.py:NAME or MODULE:NAME")
        if self.judge != "function" and not self.aspects:
            raise ConfigError("prompts: name at least one of solvability, difficulty, topic")
        if "" in map(str.strip, self.topics) or len(set(map(str.casefold, self.topics))) < len(self.topics):
            raise ConfigError("topics: contains an empty or a duplicate topic")

    @property
    def aspects(self) -> tuple[Aspect, ...]:
        """What the judge is asked about; of a function, all that it may answer."""
        given = to_dict(self.prompts)
        return tuple(aspect for aspect in VERDICTS if self.judge == "function" or given[aspect])

    @property
    def label(self) -> str:
        """What the report calls the judge."""
        return f"function {self.function}" if self.judge == "function" else judge_label(self)


def read_questions(config: JudgeConfig, run: RunOptions) -> list[Row]:
    """The questions of all generators: generator, id, question.

    Raises:
        ConfigError: a row has no question, or two rows of one generator have one id.
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
    """What is asked for each question, and what becomes of it: the hooks of `stream`.

    Attributes:
        rows: of `read_questions`.
        config: of the stage.
        seed: of the run.
        prompts: by aspect; empty for a function.
        function: the user's, if it is the judge.
        ledger: of what a server costs.
        missing: how many verdicts a row lacks, by row number, until its block is written.
    """

    rows: Sequence[Row]
    config: JudgeConfig
    seed: int
    prompts: Mapping[Aspect, Prompt] = field(default_factory=dict)
    function: Callable[[str], Any] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    missing: dict[int, int] = field(default_factory=dict)

    def requests(self, number: int) -> list[Ask] | Drop:
        """One question per aspect; none of a function."""
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
        """The row with every verdict; dropped if there is none at all, for the first reason."""
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
        """What the user's function says: a key that it leaves out is an aspect that it does not judge."""
        assert self.function is not None
        where = f"{self.config.function}: row {row['id']}"
        try:
            said = self.function(row["question"])
        except Exception as error:
            raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
        if not isinstance(said, Mapping) or not said or not said.keys() <= set(VERDICTS.values()):
            raise ConfigError(
                f"{where}: returned {said!r}, expected a mapping with {', '.join(VERDICTS.values())}"
            )
        found: Row = {}
        for aspect, column in VERDICTS.items():
            if column in said:
                found[column] = read_verdict(column, said[column], self.config.topics, where)
                found[f"{aspect}_fault"] = "none_given" if said[column] is None else None
        return found

    def counts(self, numbers: range) -> dict[str, int | float]:
        """Verdicts that are missing, and what a server costs."""
        missing = sum(self.missing.pop(number, 0) for number in numbers)
        return {"no_verdict": missing, **self.ledger.counts(numbers)}


def read_verdict(column: str, value: Any, topics: Sequence[str], where: str) -> bool | str | None:
    """A verdict that a function or a labeller gives; case does not matter, and yes and no are solvable, too.

    Args:
        column: solvable, difficulty or topic.
        value: what is given; None is no verdict.
        topics: that there are.
        where: for messages.

    Raises:
        ConfigError: it is no such verdict.
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

    A verdict that is missing is null, with its reason in `solvability_fault`, `difficulty_fault` or
    `topic_fault`: `truncated`, `unparsed`, or a fault of the chat format or server; `none_given` of a
    function. Only a question of which nothing is known is dropped, for the first of these, or as `empty`. The
    receipt counts missing verdicts as `no_verdict`, and a server's `requests` and their `cost`.

    Args:
        stage: open and unfinished.
        rows: of `read_questions`.
        judge: whoever is asked; None if a function is called.
        config: what is judged.
        run: gives seed and block size.
        prompts: by aspect.
        function: the user's, if it is the judge.
        beside: as of `Stage.finish`: writes the report.
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
    text = f"What {inline(config.label)} says of every question. report.html has the measures."
    shown = ("generator", "question", *(VERDICTS[aspect] for aspect in config.aspects))
    card = dataset_card("Judged questions", text, to_dict(config), stage.blocks.samples(8), *shown)
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS, beside=beside)
