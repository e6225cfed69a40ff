r"""Prompts of an evaluation: one YAML file each, which defines how a model is asked.

    name: worked_examples
    turn: plain                       # solve, user or plain
    text: "{shots}Question: {question}\nAnswer:"
    shot: "Question: {question}\nAnswer: {answer}\n\n"
    shots: [{question: ..., answer: ...}]
    stops: ["\n\nQuestion:"]

`turn: solve` puts the text in the place of the question in the chat format, with the format's instruction;
`user` is a user turn without the instruction; `plain` is for base models: only the text, after the
tokenizer's BOS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, build, option, read_yaml, required
from scalequest.evaluation.problems import BenchmarkProblem

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Shot:
    """A worked example."""

    question: str = required("question")
    answer: str = required("worked solution, in the form in which the model should answer")


@dataclass(frozen=True)
class Case:
    """A slot that is filled depending on a column of the problem's row."""

    column: str = required("column of the benchmark's source data")
    texts: dict[str, str] = required("text per value of the column, as Python writes it: 'True', 'None'")
    otherwise: str = option("", "text for every other value; {value} is replaced by the value")

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the text for this row."""
        value = str(row.get(self.column))
        return self.texts.get(value, self.otherwise.replace("{value}", value))


@dataclass(frozen=True)
class EvalPrompt:
    """The keys of a prompt's YAML file."""

    name: str = required("name in results")
    text: str = required(
        "contains {question} once, {shots} if there are worked examples, and the slots of `cases`"
    )
    turn: Literal["solve", "user", "plain"] = option("solve", "where the text goes in the chat format")
    shot: str = option("", "template of one worked example, with {question} and {answer}")
    shots: list[Shot] = option(None, "worked examples, in order", default_factory=list)
    cases: dict[str, Case] = option(None, "how each slot is filled", default_factory=dict)
    stops: list[str] = option(
        None,
        "strings that truncate an output; with turn: plain, generation stops there",
        default_factory=list,
    )

    def __post_init__(self) -> None:
        """Refuse a template that would silently lose something."""
        slots = _SLOT.findall(self.text)
        if slots.count("question") != 1:
            raise ConfigError(f"{self.name}: text: must contain {{question}} exactly once")
        if bool(self.shots) != ("shots" in slots):
            raise ConfigError(f"{self.name}: text: give both {{shots}} and a list of shots, or neither")
        if self.shots and not {"question", "answer"} <= set(_SLOT.findall(self.shot)):
            raise ConfigError(f"{self.name}: shot: must contain {{question}} and {{answer}}")
        if unused := set(self.cases) - set(slots):
            raise ConfigError(f"{self.name}: cases: no slot {{{min(unused)}}} in text")

    @property
    def sha256(self) -> str:
        """Hash of the whole prompt."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def fill(self, problem: BenchmarkProblem) -> str:
        """Return the text for one problem; braces that are not slots are left unchanged."""
        shots = "".join(_fill_slots(self.shot, asdict(shot)) for shot in self.shots)
        cases = {slot: case.text(problem.row) for slot, case in self.cases.items()}
        return _fill_slots(self.text, {"question": problem.question, "shots": shots, **cases})

    def ids(self, problem: BenchmarkProblem, format: BoundFormat) -> list[int]:
        """Return the token ids of the model's input, including BOS.

        Raises:
            FormatError: the chat format cannot represent the text.
        """
        text = self.fill(problem)
        if self.turn == "plain":
            encoded = format.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
            ids = list(encoded["input_ids"])
            if any(token in format.special_ids for token in ids):
                raise FormatError("special_token_in_text")
            return ids if format.bos_id is None else [format.bos_id, *ids]
        return format.user_prompt_ids(text) if self.turn == "user" else format.solve_prompt_ids(text)

    def cut(self, text: str) -> tuple[str, bool]:
        """Return an output up to the first of `stops`, and whether it contains one."""
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return (text[: min(found)].strip(), True) if found else (text, False)


QUESTION_ONLY = EvalPrompt(name="question", text="{question}")


def load_eval_prompt(path: str | Path) -> EvalPrompt:
    """Read a prompt file.

    Raises:
        ConfigError: names the file and what is wrong.
    """
    (prompt,) = build((EvalPrompt,), read_yaml(path), str(path))
    loaded: EvalPrompt = prompt
    return loaded


def _fill_slots(template: str, texts: Mapping[str, str]) -> str:
    """Fill all slots in one pass, so that a question that contains "{shots}" is left unchanged."""
    return _SLOT.sub(lambda slot: texts.get(slot[1], slot[0]), template)
