"""Scores from a judge that is asked in words: marks for solutions, or the difficulty level of questions.

The judge is a local model or one behind a chat server. A reply without marks or a level gives no score: the
row says why, and the receipt counts it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scalequest.config import RunOptions
from scalequest.questions.judges import Ask, Judge, Ledger, Said, judge_label
from scalequest.questions.levels import level_columns
from scalequest.questions.prompts import Prompt
from scalequest.records import Row, row_seed
from scalequest.solutions.rewards import ScoreConfig, finish_scores
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

MOST_MARKS = 10.0
_READ = ("truncated", "unparsed")  # faults of a reply that came
_SAID = re.compile(
    r"\bscore[*_`\"']*\s*(?:[:=]|\bis\b)(?:[\s*_`\"'$\[{(]|\\[a-z]+\{)*(?=[-+]?\d)", re.IGNORECASE
)
# Marks that are all that is said: "7", "7/10", "7.5 out of 10"; not "7-8", "7/5", "7,5"
_MARKS = re.compile(
    r"(?P<marks>\d+(?:\.\d+)?)(?:[\s}*$]*(?:/|out\s+of)[\s*$]*10(?:\.0+)?)?"
    r"(?!\w|[.,]\d|[\s}*$]*(?:/|out\s+of|[-–—]|\bto\b|\bor\b)[\s*$]*\d)",
    re.IGNORECASE,
)


def read_marks(text: str) -> float | None:
    """Return the last marks in a judge's reply, from 0 to 10; None if they are anything else."""
    found = [*_SAID.finditer(text)]
    last = _MARKS.match(text, found[-1].end()) if found else None
    marks = float(last["marks"]) if last else -1.0
    return marks if 0 <= marks <= MOST_MARKS else None


@dataclass(frozen=True)
class JudgedScoring:
    """The hooks of `stream` if a judge is asked in words.

    Attributes:
        rows: rows with `question`, and with `responses` and `finish_reasons` if responses are judged.
        prompt: the judge's prompt.
        config: the stage's settings.
        seed: the run's seed.
        ledger: what a server costs.
        faults: the number of replies without a score by row number, until the row's block is written.
    """

    rows: Sequence[Row]
    prompt: Prompt
    config: ScoreConfig
    seed: int
    ledger: Ledger
    faults: dict[int, int] = field(default_factory=dict)

    def requests(self, number: int) -> list[Ask] | Drop:
        """Return one request per complete response, whose number ends the key, or one for the question."""
        row = self.rows[number]
        if not row["question"].strip():
            return Drop(row, "empty")
        if self.config.what == "question":
            return [self._ask(row, 0)]
        places = [place for place, end in enumerate(row["finish_reasons"]) if end == "stop"]
        return [self._ask(row, place, row["responses"][place]) for place in places] or Drop(row, "no_reward")

    def _ask(self, row: Row, place: int, response: str = "") -> Ask:
        greedy = self.config.sampling.temperature == 0
        seed = None if greedy else row_seed(self.seed, "score", row["id"], place)
        return Ask(f"{row['id']}/{place}", self.prompt.fill(row["question"], response=response), seed)

    def row(self, number: int, replies: Sequence[Said]) -> Row | Drop:
        """Return the row with its rewards or its difficulty, or drop it with the reason why it has none."""
        self.ledger.add(number, replies)
        row = self.rows[number]
        if self.config.what == "question":
            return self._question(row, number, replies[0])
        return self._responses(row, number, replies)

    def _question(self, row: Row, number: int, said: Said) -> Row | Drop:
        found = level_columns(said)
        fault = found.pop("difficulty_fault")
        self.faults[number] = int(fault is not None)
        row = row | {"difficulty": found.pop("difficulty_score"), **found}
        row["difficulty_by"] = judge_label(self.config)
        return row if fault is None else Drop(row, f"level_{fault}" if fault in _READ else fault)

    def _responses(self, row: Row, number: int, replies: Sequence[Said]) -> Row | Drop:
        rewards: list[float | None] = [None] * len(row["responses"])
        faults: list[str | None] = ["response_cut"] * len(row["responses"])
        said = iter(replies)
        for place, end in enumerate(row["finish_reasons"]):
            if end == "stop":
                reply = next(said)
                rewards[place] = read_marks(reply.whole)
                faults[place] = reply.why_none if rewards[place] is None else None
        self.faults[number] = sum(fault not in (None, "response_cut") for fault in faults)
        row = row | {"rewards": rewards, "reward_faults": faults, "reward_model": judge_label(self.config)}
        return row if any(reward is not None for reward in rewards) else Drop(row, "no_reward")

    def counts(self, numbers: range) -> dict[str, int | float]:
        """Return the number of replies without a score, and the cost of all replies."""
        faults = sum(self.faults.pop(number, 0) for number in numbers)
        return {"judge_faults": faults, **self.ledger.counts(numbers)}


def score_by_judge(
    stage: Stage,
    rows: Sequence[Row],
    judge: Judge,
    prompt: Prompt,
    config: ScoreConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Have every row judged and finish the stage: `rewards` from 0 to 10, or `difficulty` from 20 to 100.

    A response that was truncated, or whose reply contains no marks, has no reward (None), and `reward_faults`
    says why: `response_cut`, `truncated`, `unparsed`, or a fault of the chat format or the server. The
    receipt counts replies without a score as `judge_faults`, and a server's `requests` and their `cost`. Rows
    are dropped for `no_reward` (no response has one) and `empty`; questions also for `level_unparsed`,
    `level_truncated` and the other faults.

    Args:
        stage: an open, unfinished stage.
        rows: rows with `question`, and with `responses` and `finish_reasons` if responses are judged.
        judge: the judge.
        prompt: the judge's prompt.
        config: the stage's settings.
        run: gives the seed and the block size.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    ledger = Ledger(config.server if config.judge == "server" else None)
    hooks = JudgedScoring(rows, prompt, config, run.seed, ledger)
    stream(
        stage, len(rows), run.block_size,
        requests=hooks.requests, generate=judge, row=hooks.row, counts=hooks.counts,
        tracker=tracker, gates=config.gates,
    )  # fmt: skip
    return finish_scores(stage, len(rows), config, judge_label(config))
