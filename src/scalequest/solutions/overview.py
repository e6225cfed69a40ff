"""Statistics of any dataset of questions and answers.

Topics are assigned by the words of the question: the first list with the most hits. They are a rough index in
the terms of the paper's Fig. 7, not a judgement.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalequest.grading.extraction import extract
from scalequest.pages import elements
from scalequest.questions.contamination import (
    ContaminationRule,
    Index,
    TestQuestion,
    contamination_sections,
)
from scalequest.questions.duplicates import DuplicateRule, Sketch, find_duplicates, sketch
from scalequest.questions.language import LanguageRule, languages
from scalequest.questions.text import batches
from scalequest.records import Row

MEASURES = ("fail_rate", "difficulty", "agreement", "reward", "margin")  # shown if rows have them
_TOPICS = {
    "geometry": "triangle circle square rectangle angle area perimeter radius volume polygon sphere cube "
    "diagonal parallel perpendicular circumference cylinder hexagon",
    "trigonometry": "sin cos tan sine cosine tangent cot sec arcsin arctan trigonometric",
    "number theory": "divisible remainder prime divisor divisors gcd lcm mod modulo digits integer integers "
    "multiple",
    "probability": "probability dice die coin random randomly expected fair",
    "combinatorics": "ways arrange arrangements permutations combinations choose committee subsets distinct",
    "calculus": "derivative integral limit differentiable converges int lim",
    "algebra": "equation polynomial function roots root solve log matrix vector quadratic inequality "
    "sequence value expression simplify factor sqrt system",
    "arithmetic": "how many much total each more left cost price sells buys dollars hours day days week per "
    "percent",
}
_UNKNOWN = "not given"
_WORDS = {topic: frozenset(words.split()) for topic, words in _TOPICS.items()}
_ANSWERS = (
    ("none", r"\s*"),
    ("integer", r"-?\d{1,3}(?:,\d{3})+|-?\d+"),
    ("decimal", r"-?\d*\.\d+"),
    ("percent or money", r"\\?\$\s*-?[\d.,]+|-?[\d.,]+\s*\\?%"),
    ("fraction", r"-?(?:\\[dt]?frac\s*(?:\{-?\d+\}|\d)\s*(?:\{-?\d+\}|\d)|\d+\s*/\s*\d+)"),
    ("tuple, set or interval", r"(?:\\left)?\s*(?:\\\{|[(\[]).*,.*(?:\\\}|[)\]])"),
    (
        "number with a unit",
        r"-?[\d.,]+\s*(?:\\,|\\ |~)*\s*(?:\\(?:text|mathrm|mbox)\{[^}]*\}|\^\\?\{?\\?circ\}?).*",
    ),
    ("equation or inequality", r".*(?:=|<|>|\\le|\\ge|\\in\b).*"),
    ("text", r"(?:\\text\{[^}]*\}|[A-Za-z][A-Za-z ,.'-]*)"),
)


@dataclass(frozen=True)
class Overview:
    """The statistics of a dataset.

    Attributes:
        facts: the statistics in JSON form.
        samples: the numbers to plot, by what they measure.
        flagged: label, question and benchmark question of every row that matches a benchmark.
    """

    facts: dict[str, Any]
    samples: dict[str, list[float]]
    flagged: list[tuple[str, str, str]] = field(default_factory=list)


def topic(question: str) -> str:
    """Return the topic that most words of a question point to; `other` if none does."""
    words = Counter(re.findall(r"[a-z]+", question.lower()))
    hits = {name: sum(words[word] for word in known) for name, known in _WORDS.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] else "other"


def answer_type(answer: str | None) -> str:
    """Return the kind of a final answer, by its form."""
    answer = (answer or "").strip().strip("$").strip()
    for name, pattern in _ANSWERS:
        if re.fullmatch(pattern, answer, re.DOTALL):
            return name
    return "expression"


def overview(
    rows: Sequence[Row],
    tests: Sequence[TestQuestion],
    rule: ContaminationRule,
    left_out: Sequence[str] = (),
) -> Overview:
    """Compute the statistics of rows of `query` and `response`; a missing `answer` is read from the response.

    Args:
        rows: the dataset.
        tests: the benchmark questions to compare with; none disables the comparison.
        rule: the rule for comparing.
        left_out: the names of skipped benchmarks.
    """
    # One pass over the questions: language, duplicates, benchmarks
    queries = [str(row["query"]) for row in rows]
    responses = [str(row["response"]) for row in rows]
    index, parts, dropped = Index(tests, rule), [], 0
    flagged, by_rule = [], Counter[str]()
    for start, tokens in batches(queries):
        own = queries[start : start + len(tokens.offsets) - 1]
        dropped += sum(reason is not None for reason in languages(own, tokens, LanguageRule()))
        parts.append(sketch(tokens, DuplicateRule()))
        for number, match in enumerate(index.matches(tokens) if tests else (), start):
            if match is not None:
                by_rule[match.rule] += 1
                label = f"row {number + 1}: {match.rule}, {match.test.benchmark}/{match.test.id}"
                flagged.append((label, queries[number], match.test.question))
    duplicates = Counter[str]()
    templates = 0
    if parts:
        found = find_duplicates(queries, Sketch.joined(parts), DuplicateRule())
        duplicates.update(reason for reason in found.reasons if reason)
        templates = found.template_rows
    # Numbers to plot
    samples = {
        "query, characters": [float(len(text)) for text in queries],
        "response, characters": [float(len(text)) for text in responses],
    }
    for name in MEASURES:
        values = [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if values:
            samples[name] = values
    # Counts
    answers = [row.get("answer") or extract(text).answer for row, text in zip(rows, responses, strict=True)]
    facts = {
        "rows": len(rows),
        "numbers": {name: _quantiles(values) for name, values in samples.items()},
        "topics": dict(Counter(map(topic, queries)).most_common()),
        "answer_types": dict(Counter(map(answer_type, answers)).most_common()),
        "generators": dict(Counter(str(row.get("generator") or _UNKNOWN) for row in rows).most_common()),
        "not_english": dropped,
        "duplicates": {**duplicates, "templates_with_other_numbers": templates},
        "contamination": {
            "flagged": dict(by_rule),
            "clean": index.clean_ratios() if tests else [],
            "left_out": [*left_out],
        },
    }
    return Overview(facts, samples, flagged)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {
        "rows": len(values), "min": min(values), "5 %": float(low), "median": float(median),
        "mean": float(np.mean(values)), "95 %": float(high), "max": max(values),
    }  # fmt: skip


def sections(found: Overview) -> list[str]:
    """Return the overview as sections of a page, with plots."""
    facts = found.facts
    numbers = [{"of": name, **values} for name, values in facts["numbers"].items()]
    doubled = facts["duplicates"]
    counted = {
        "not English": facts["not_english"],
        "equal to an earlier row except for case, spacing and spelling of LaTeX": doubled.get("duplicate", 0),
        "near-duplicates of an earlier row": doubled.get("near_duplicate", 0),
        "same text as an earlier row with other numbers": doubled["templates_with_other_numbers"],
    }
    plots = [elements.histogram({name: values}, name) for name, values in found.samples.items()]
    return [
        elements.section("Numbers", elements.table(numbers), *plots, note=f"{facts['rows']:,} rows."),
        elements.section(
            "Topics", elements.bars(facts["topics"]), note="Assigned by keywords, so only approximate."
        ),
        elements.section("Answers", elements.bars(facts["answer_types"])),
        *(
            [elements.section("Generators", elements.bars(made))]
            if set(made := facts["generators"]) - {_UNKNOWN}
            else []
        ),
        elements.section(
            "Duplicates and language", elements.table([{"what": k, "rows": n} for k, n in counted.items()])
        ),
        *contamination_sections(
            facts["contamination"]["clean"],
            facts["contamination"]["flagged"],
            found.flagged,
            "is here",
            facts["contamination"]["left_out"],
        ),
    ]


def lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the overview as pairs of label and text, for a terminal or a card."""
    told = [("rows", f"{facts['rows']:,}")]
    for name, values in facts["numbers"].items():
        if values:
            shown = (f"{key} {elements.number(values[key])}" for key in ("median", "mean", "max"))
            told.append((name, ", ".join(shown)))
    for name in ("topics", "answer_types", "generators"):
        shares = (f"{kind} {100 * n / max(1, facts['rows']):.1f} %" for kind, n in facts[name].items())
        told.append((name.replace("_", " "), ", ".join(shares)))
    told.append(("not English", f"{facts['not_english']:,}"))
    told.append(("duplicates", ", ".join(f"{kind} {n:,}" for kind, n in facts["duplicates"].items())))
    flagged = facts["contamination"]["flagged"]
    told.append(("benchmark questions", ", ".join(f"{rule} {n:,}" for rule, n in flagged.items()) or "none"))
    clean = (f"{one['benchmark']} {100 * one['clean']:.2f} %" for one in facts["contamination"]["clean"])
    told.append(("clean ratio", ", ".join(clean) or "not compared"))
    if left_out := facts["contamination"]["left_out"]:
        told.append(("benchmarks skipped, data missing", ", ".join(left_out)))
    return told
