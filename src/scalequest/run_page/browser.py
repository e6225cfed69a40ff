"""Every question of a run with its solutions, scores and outcome, in a form that a page can search quickly.

The index (one value per question and column) is read as a whole. The details are split into chunks, which the
page unpacks when they are needed. Long texts are shortened, and the page says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalequest.pages.app import pack
from scalequest.pages.markup import visible
from scalequest.run_page.rows import StageRow
from scalequest.run_page.stages import StageFacts

CHUNK = 250  # questions
SEARCHED = (1_000, 500, 250, 100)  # maximum length of a question in the search index, chosen as in LENGTHS
# Maximum length of a selected solution or a model's output, and of any other text, in characters; the first
# pair for which the page is small enough is used
LENGTHS = (
    (4_000, 4_000), (4_000, 2_000), (4_000, 1_000), (4_000, 600), (4_000, 300), (2_000, 300), (1_500, 300),
    (1_000, 300), (750, 200), (500, 200), (250, 100),
)  # fmt: skip
MOST_TEXTS = 16  # solutions of one question at one stage
MOST_FIELDS = 24
MOST_FIELD = 200  # characters
MOST_BYTES = 24_500_000  # of all packed details
MOST_INDEX_BYTES = 4_000_000
_TRIED = 16  # one in 16 chunks is packed to estimate the size of all
_SHOWN_ELSEWHERE = {
    "id", "question", "query", "rejected", "chosen", "reply", "response", "responses", "answers", "tokens",
    "finish_reasons", "rewards", "completion", "extracted", "correct", "reason", "benchmark", "sample",
    "generator", "prompt_sha256", "seed",
}  # fmt: skip
_TEXTS = {
    "query": "question",
    "question": "question",
    "rejected": "rejected",
    "chosen": "chosen",
    "reply": "reply",
}
_SCORES = ("difficulty", "reward", "agreement")


@dataclass
class Question:
    """A question, or a problem of a benchmark, with the results of all stages."""

    key: str
    text: str = ""
    generator: str = ""
    stage: int = 0
    fate: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, list[bool]] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    chosen: set[int] = field(default_factory=set)
    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, text: str, chosen: bool = False) -> int:
        """Return the number of a text, which is stored once; chosen texts are shown at greater length."""
        number = self.texts.setdefault(text, len(self.texts))
        if chosen:
            self.chosen.add(number)
        return number


class Browser:
    """Collects the questions of a run, ordered by how far they came; problems of benchmarks come last."""

    def __init__(self, problems: Mapping[str, str] | None = None) -> None:
        """Start without questions.

        Args:
            problems: the questions of the benchmarks' problems, by the key of their rows.
        """
        self._questions: dict[str, Question] = {}
        self._problems = problems or {}

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._questions)

    def add(self, stage: StageFacts, number: int, one: StageRow) -> None:
        """Add a row of a stage; `number` is the position of the stage on the page."""
        found = self._questions.setdefault(one.key, Question(one.key))
        if "benchmark" in one.row:
            self._add_output(found, stage, number, one.row)
        else:
            self._add_row(found, stage, number, one)

    def _add_row(self, found: Question, stage: StageFacts, number: int, one: StageRow) -> None:
        row = one.row
        found.generator = str(row.get("generator") or found.generator or "")
        found.text = found.text or _first_text(row, "question", "query", "rejected")
        found.stage, found.fate = number, one.reason or "kept"
        found.scores |= _scores_of(row)
        event: dict[str, Any] = {"stage": number, "reason": one.reason, "fields": _fields_of(row)}
        texts = [
            [label, found.note(str(row[name]))]
            for name, label in _TEXTS.items()
            if row.get(name) is not None and row[name] != found.text
        ]
        solutions = list(_solutions_of(found, row))
        event |= {"texts": texts} if texts else {}
        event |= {"solutions": solutions[:MOST_TEXTS]} if solutions else {}
        event |= {"more": len(solutions) - MOST_TEXTS} if len(solutions) > MOST_TEXTS else {}
        found.events.append(event)

    def _add_output(self, found: Question, stage: StageFacts, number: int, row: Mapping[str, Any]) -> None:
        model = stage.folder
        found.text = found.text or self._problems.get(found.key, "")
        found.generator, found.stage = str(row["benchmark"]), number
        found.verdicts.setdefault(model, []).append(bool(row.get("correct")))
        found.answers.setdefault(model, str(row.get("extracted") or ""))
        if not found.events or found.events[-1]["stage"] != number:
            known = {
                "reference": row.get("reference"),
                "metadata": row.get("metadata"),
                "rule": row.get("rule"),
            }
            found.events.append(
                {"stage": number, "reason": None, "fields": _fields_of(known), "solutions": []}
            )
        event = found.events[-1]
        if len(event["solutions"]) >= MOST_TEXTS:
            event["more"] = event.get("more", 0) + 1
            return
        text = row.get("completion")
        event["solutions"].append(
            {
                "text": None if text is None else found.note(str(text), True),
                "answer": _short(row.get("extracted")),
                "tokens": row.get("tokens"),
                "end": row.get("finish_reason"),
                "right": bool(row.get("correct")),
            }
        )

    # ------------------------------------------------------------------------------------------- for the page

    def packed_index(self) -> str:
        """Return the packed index, with questions shortened until it is small enough."""
        return next(
            packed
            for most in SEARCHED
            if len(packed := pack(self.index(most))) <= MOST_INDEX_BYTES or most == SEARCHED[-1]
        )

    def index(self, most: int = SEARCHED[0]) -> dict[str, Any]:
        """Return the columns by which the page searches, filters and sorts.

        Args:
            most: the maximum length of a question in characters.
        """
        every = self._in_order()
        for one in every:
            if one.verdicts:
                right = [value for of in one.verdicts.values() for value in of]
                one.fate = (
                    "right by all" if all(right) else "right by some" if any(right) else "right by none"
                )
        generators, fates = (_coded([getattr(one, name) for one in every]) for name in ("generator", "fate"))
        models = list(dict.fromkeys(model for one in every for model in one.verdicts))
        return {
            "key": [visible(one.key.removeprefix("/")) for one in every],
            "question": [_cut(one.text, most)[0] for one in every],
            "stage": [one.stage for one in every],
            "generator": generators,
            "fate": fates,
            **{name: [_rounded(one.scores.get(name)) for one in every] for name in _SCORES},
            "models": [visible(model) for model in models],
            "right": [[_share(one.verdicts.get(model)) for one in every] for model in models],
            "answers": [[_short(one.answers.get(model)) for one in every] for model in models],
        }

    def _in_order(self) -> list[Question]:
        return sorted(self._questions.values(), key=lambda one: (bool(one.verdicts), -one.stage))

    def chunks(self) -> tuple[list[str], tuple[int, int]]:
        """Return the packed details in chunks of `CHUNK` questions, and the pair of `LENGTHS` in use."""
        every = self._in_order()
        groups = [every[start : start + CHUNK] for start in range(0, len(every), CHUNK)]
        lengths = next((most for most in LENGTHS if _size_of(groups, most) <= MOST_BYTES), LENGTHS[-1])
        packed, left = [], MOST_BYTES
        for group in groups:
            chunk = pack([_detail(one, lengths) if left > 0 else _bare(one) for one in group])
            left -= len(chunk)
            packed.append(chunk)
        return packed, lengths


def _size_of(groups: Sequence[Sequence[Question]], most: tuple[int, int]) -> float:
    """Estimate the size of all details if their texts have at most this length."""
    tried = groups[::_TRIED]
    size = sum(len(pack([_detail(one, most) for one in group])) for group in tried)
    return size * len(groups) / max(1, len(tried))


def _detail(one: Question, most: tuple[int, int]) -> dict[str, Any]:
    """Return a question as the page shows it; each text comes with the number of omitted characters."""
    return {
        "question": _cut(one.text, max(most[0], LENGTHS[-1][0])),
        "texts": [_cut(text, most[place not in one.chosen]) for text, place in one.texts.items()],
        "events": one.events,
    }


def _bare(one: Question) -> dict[str, Any]:
    """Return a question's path through the stages without any texts, because the page is full."""
    way = [{"stage": event["stage"], "reason": event["reason"], "fields": []} for event in one.events]
    return {"question": _cut(one.text, LENGTHS[-1][0]), "texts": [], "events": way, "left_out": True}


def _cut(text: str, most: int) -> tuple[str, int]:
    return visible(text[:most]), max(0, len(text) - most)


def _first_text(row: Mapping[str, Any], *names: str) -> str:
    return next((str(row[name]) for name in names if row.get(name) is not None), "")


def _scores_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return difficulty (from the scorer, or else the fail rate), reward and agreement."""
    found = {name: _number(row.get(name)) for name in _SCORES}
    if found["difficulty"] is None:
        found["difficulty"] = _number(row.get("fail_rate"))
    rewards = [value for value in map(_number, row.get("rewards") or []) if value is not None]
    if found["reward"] is None and rewards:
        found["reward"] = max(rewards)
    return {name: value for name, value in found.items() if value is not None}


def _solutions_of(found: Question, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the solutions in a row: several (`responses` and parallel lists), or the selected one."""
    if isinstance(row.get("responses"), list):
        for place, text in enumerate(row["responses"]):
            yield {
                "text": None if text is None else found.note(str(text)),
                "answer": _short(_at(row.get("answers"), place)),
                "tokens": _at(row.get("tokens"), place),
                "end": _at(row.get("finish_reasons"), place),
                "reward": _rounded(_number(_at(row.get("rewards"), place))),
            }
    elif row.get("response") is not None:
        yield {"text": found.note(str(row["response"]), True), "selected": True}


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _fields_of(row: Mapping[str, Any]) -> list[list[str | None]]:
    """Return the other non-empty columns of a row as short texts."""
    shown: list[list[str | None]] = []
    for name, value in row.items():
        if name not in _SHOWN_ELSEWHERE and value is not None and value != "":
            number = _rounded(_number(value))
            said = f"{number:g}" if number is not None else str(value)
            shown.append([visible(str(name))[:60], _short(said)])
    return shown[:MOST_FIELDS]


def _short(value: Any) -> str | None:
    if value is None:
        return None
    text = visible(str(value))
    return text if len(text) <= MOST_FIELD else f"{text[: MOST_FIELD - 1]}…"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _share(verdicts: Sequence[bool] | None) -> float | None:
    return round(sum(verdicts) / len(verdicts), 4) if verdicts else None


def _coded(values: Sequence[str]) -> dict[str, Any]:
    """Encode values as numbers that refer to a list of names, most frequent first."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    names = sorted(counts, key=lambda name: (-counts[name], name))
    place = {name: number for number, name in enumerate(names)}
    return {"names": [visible(name) for name in names], "codes": [place[value] for value in values]}
