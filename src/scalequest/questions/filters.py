"""Which generated questions go on: by language, duplicates, contamination, solvability and difficulty.

The order of the paper (section 2.4) is language, solvability, difficulty; duplicates and contamination,
which it does not have, come before anything that costs a forward pass. Each step is a function that gives a
reason or None.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.stream import Drop, completing, stream
from scalequest.questions.prompts import Prompt
from scalequest.records import Row, row_seed
from scalequest.shards import Stage
from scalequest.solutions.solving import SAMPLE_COLUMNS, sample_requests, sampled
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows

Step = Literal["language", "duplicates", "contamination", "solvability", "difficulty"]
MODEL_STEPS = ("solvability", "difficulty")

# Function words that tell questions in plain ASCII apart; none is a word of both lists or a usual variable.
_ENGLISH = "the of and how many much what is are to if with find each more has have does he she"
_FOREIGN = (
    "der das und wie viele hat ist ein eine jetzt le les et en de du il elle une est combien que "
    "el los las una tiene es con por cuántos cuántas cuantos cuantas ahora che quanti"
)
ENGLISH, FOREIGN = frozenset(_ENGLISH.split()), frozenset(_FOREIGN.split())


@dataclass(frozen=True)
class LanguageRule:
    """What counts as English."""

    paper_exact: bool = option(
        False, "drop a question with any character above 127, curly quotes and ° too (paper)"
    )
    max_accented: float = option(0.1, "largest share of accented letters among a question's letters")


@dataclass(frozen=True)
class Benchmark:
    """Questions that must not be trained on."""

    source: str = required("file, stage folder or hub:owner/name of the benchmark")
    column: str = option("question", "its column that holds the question")


@dataclass(frozen=True)
class ContaminationRule:
    """Which benchmarks the questions are held against."""

    against: list[Benchmark] = option(
        help="benchmarks; a question that stands in one is dropped", default_factory=list, fingerprint=False
    )


@dataclass(frozen=True)
class SolvabilityRule:
    """Who says whether a question can be solved."""

    judge: Literal["agreement", "model"] = option(
        "agreement", "the solver's agreement with itself, or a verdict"
    )
    min_agreement: float = option(
        0.5, "judge agreement: smallest share of the samples that give the majority's answer"
    )
    prompt: str | None = option(None, "judge model: YAML file of the prompt", fingerprint=False)
    paper_exact: bool = option(False, "judge model: 'yes' anywhere in the reply counts as Yes (paper's code)")


@dataclass(frozen=True)
class DifficultyRule:
    """Which fail rates stay. The fail rate is 1 - agreement: nobody knows the right answers here."""

    min_fail_rate: float = option(0.0, "easier ones are dropped")
    max_fail_rate: float = option(1.0, "harder ones are dropped")


@dataclass(frozen=True)
class FilterConfig:
    """The filter stage. It asks at most one model one kind of thing; two kinds are two stages."""

    input: list[str] = required("question sources, read one after the other", fingerprint=False)
    steps: list[Step] = required("the filters, in order; those that ask a model come last")
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    language: LanguageRule = option(help="step language", default_factory=LanguageRule)
    contamination: ContaminationRule = option(help="step contamination", default_factory=ContaminationRule)
    solvability: SolvabilityRule = option(help="step solvability", default_factory=SolvabilityRule)
    difficulty: DifficultyRule = option(help="step difficulty", default_factory=DifficultyRule)
    model_name_or_path: str | None = option(
        None, "the judge or solver: a folder or hub id", fingerprint=False
    )
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    chat_format: str | None = option(None, "its chat format: a family or a YAML file", fingerprint=False)
    samples: int = option(5, "solutions sampled a question, where agreement is measured")
    keep_responses: bool = option(False, "keep them in the rows, so that solve_questions can reuse them")
    sampling: Sampling = option(help="how the model is sampled", default_factory=Sampling)
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)

    def __post_init__(self) -> None:
        asks = [step in MODEL_STEPS for step in self.steps]
        if len(set(self.steps)) != len(self.steps):
            raise ConfigError(f"steps: {self.steps} names a step twice")
        if asks != sorted(asks):
            raise ConfigError(
                f"steps: {self.steps} asks a model before a step that needs none; put those first"
            )
        if any(asks) and not (self.model_name_or_path and self.chat_format):
            raise ConfigError(f"steps: {self.steps[-1]} needs model_name_or_path and chat_format")
        if self.by_verdict and "difficulty" in self.steps:
            raise ConfigError(
                "steps: difficulty needs samples and solvability.judge: model a verdict; make two stages"
            )
        if self.by_verdict and not self.solvability.prompt:
            raise ConfigError("solvability.prompt: judge: model needs a prompt file")
        if any(asks) and not self.by_verdict and self.samples < 2:
            raise ConfigError(f"samples: {self.samples} cannot agree or disagree; give at least 2")
        if "contamination" in self.steps and not self.contamination.against:
            raise ConfigError("contamination.against: step contamination needs at least one benchmark")

    @property
    def by_verdict(self) -> bool:
        """Whether the model is asked for a verdict, not for solutions."""
        return "solvability" in self.steps and self.solvability.judge == "model"

    @property
    def asks_model(self) -> bool:
        """Whether any step needs a model at all."""
        return any(step in MODEL_STEPS for step in self.steps)


def language(question: str, rule: LanguageRule) -> str | None:
    """Drop what is not English: another script, many accents, or more foreign function words than English.

    Greek letters and mathematical alphabets are mathematics, and stay. With `rule.paper_exact` every
    character must be ASCII, as in the authors' code, and nothing else is looked at.
    """
    if not question.strip():
        return "empty"
    if rule.paper_exact:
        return None if question.isascii() else "language"
    words = re.findall(r"[^\W\d_]+", question.casefold())
    foreign = sum(word in FOREIGN for word in words)
    if foreign > 1 and foreign > sum(word in ENGLISH for word in words):
        return "language"
    if question.isascii():
        return None
    letters = [letter for letter in unicodedata.normalize("NFKC", question) if letter.isalpha()]
    accented = [letter for letter in letters if not letter.isascii()]
    names = [unicodedata.name(letter, "UNKNOWN") for letter in accented]
    if any(not name.startswith(("LATIN", "GREEK", "MODIFIER LETTER")) for name in names):
        return "language"
    latin = sum(name.startswith("LATIN") for name in names)
    return "language" if latin > rule.max_accented * len(letters) else None


def normalised(question: str) -> str:
    """What two questions share that differ in case, spacing or Unicode form only."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def masked(question: str) -> str:
    """`normalised` with numbers as # and capitalised words as @: the story without its names and numbers."""

    def name(word: re.Match[str]) -> str:
        return word[0] if word[0].lower() in ENGLISH else "@"

    nameless = re.sub(r"\b[A-Z][a-z]+\b", name, unicodedata.normalize("NFKC", question))
    return normalised(re.sub(r"\d+(?:[.,]\d+)*", "#", nameless))


def verdict(text: str, paper_exact: bool = False) -> bool | None:
    """The judge's last explicit Yes or No; None where it gives none.

    Explicit is a yes or no that closes a clause ("Verdict: **Yes**", "No, because ..."); "there is no missing
    number" and "Yes or No" are not. With `paper_exact` a yes anywhere is Yes and anything else No, as in the
    authors' code.
    """
    if paper_exact:
        return "yes" in text.lower()
    found = re.findall(
        r"(?<!or )(?<!/)\b(yes|no)\b(?!\s*/)(?=[*_}\"'”’)\]]*(?:[.,;:!?\n]|\s*$))", text, re.IGNORECASE
    )
    return found[-1].lower() == "yes" if found else None


def read_text_steps(
    rows: Sequence[Row], config: FilterConfig, benchmarks: Iterable[str]
) -> tuple[list[str | None], list[bool]]:
    """Run the steps that need no model over all rows, in order.

    Every worker does so over all rows: which of two equal questions is the first depends on all of them.

    Returns:
        A reason or None for every row; and whether the row equals a benchmark question but for names and
        numbers (reported, never a reason: templated arithmetic collides by chance).
    """
    questions = list(benchmarks)
    known, known_masked = {normalised(text) for text in questions}, {masked(text) for text in questions}
    seen: set[str] = set()

    def duplicates(question: str) -> str | None:
        key = normalised(question)
        if key in seen:
            return "duplicate"
        seen.add(key)
        return None

    checks: Mapping[str, Callable[[str], str | None]] = {
        "language": lambda question: language(question, config.language),
        "duplicates": duplicates,
        "contamination": lambda question: "contamination" if normalised(question) in known else None,
    }
    steps = [checks[step] for step in config.steps if step in checks]
    reasons = [next(filter(None, (step(row["question"]) for step in steps)), None) for row in rows]
    return reasons, [bool(known) and masked(row["question"]) in known_masked for row in rows]


def unsolvable(measures: Row, rule: SolvabilityRule) -> str | None:
    """Drop by the verdict or the agreement that was measured."""
    if rule.judge == "agreement":
        return "unsolvable" if measures["agreement"] < rule.min_agreement else None
    if measures["verdict"] is None:
        return "verdict_truncated" if measures["verdict_finish_reason"] == "length" else "verdict_unparsed"
    return None if measures["verdict"] else "unsolvable"


def outside_difficulty(measures: Row, rule: DifficultyRule) -> str | None:
    """Drop what the solver fails too seldom or too often."""
    if measures["fail_rate"] < rule.min_fail_rate:
        return "too_easy"
    return "too_hard" if measures["fail_rate"] > rule.max_fail_rate else None


def filter_questions(
    stage: Stage,
    rows: Sequence[Row],
    config: FilterConfig,
    run: RunOptions,
    *,
    benchmarks: Iterable[str] = (),
    generator: Generator | None = None,
    format: BoundFormat | None = None,
    prompt: Prompt | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Filter `rows` and finish the stage; kept and dropped rows carry what was measured.

    Args:
        stage: an open, unfinished stage.
        rows: question rows.
        config: the steps and their rules.
        run: gives the seed and the block size.
        benchmarks: question texts for the contamination step.
        generator: judge or solver, where a step needs one.
        format: its chat format.
        prompt: the judge's, where `solvability.judge` is `model`.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    reasons, near = read_text_steps(rows, config, benchmarks)
    known = "contamination" in config.steps

    left_out = SAMPLE_COLUMNS if config.keep_responses else ()  # a question row counts its own tokens

    def base(number: int) -> Row:
        row = {key: value for key, value in rows[number].items() if key not in left_out}
        return row | ({"masked_match": near[number]} if known else {})

    def ask(number: int) -> Sequence[Request] | Drop:
        row, reason = base(number), reasons[number]
        if reason is not None:
            return Drop(row, reason)
        if format is None:
            return []
        try:
            if config.by_verdict:
                assert prompt is not None, "judge: model without a prompt"
                seed = row_seed(run.seed, "judge", row["id"]) if config.sampling.temperature > 0 else None
                return [Request(row["id"], format.user_prompt_ids(prompt.fill(row["question"])), seed)]
            return sample_requests(
                row, range(config.samples), run.seed, "filter_questions", config.sampling, format
            )
        except FormatError as error:
            return Drop(row, str(error))

    def settle(number: int, completions: Sequence[Completion]) -> Row | Drop:
        row = base(number)
        if format is None:
            return row
        if config.by_verdict:
            text = format.decode(completions[0].ids)
            row |= {
                "verdict": verdict(text, config.solvability.paper_exact),
                "verdict_text": text,
                "verdict_finish_reason": completions[0].finish_reason,
            }
        else:
            measures = sampled(completions, format)
            row |= measures if config.keep_responses else {"agreement": measures["agreement"]}
            row["fail_rate"] = 1 - measures["agreement"]
        reason = None
        for step in config.steps:
            if step == "solvability":
                reason = reason or unsolvable(row, config.solvability)
            elif step == "difficulty":
                reason = reason or outside_difficulty(row, config.difficulty)
        return row if reason is None else Drop(row, reason)

    answer = None
    if config.asks_model:
        assert generator is not None, "a model step without a model"
        assert format is not None, "a model step without a chat format"
        answer = completing(generator, config.sampling, format.solve_stop_ids)
    stream(
        stage,
        len(rows),
        run.block_size,
        ask=ask,
        answer=answer,
        settle=settle,
        counts=(lambda numbers: {"masked_matches": sum(near[i] for i in numbers)}) if known else None,
        tracker=tracker,
    )
    text = f"Questions that passed, in this order: {', '.join(config.steps)}."
    if known:
        text += (
            f" Of {len(rows)} that came in, {sum(near)} equal a benchmark question but for names and numbers."
        )
    columns = ["verdict"] if config.by_verdict else ["agreement", "fail_rate"] if config.asks_model else []
    card = dataset_card(
        "Filtered questions", text, to_dict(config), stage.samples(8), "id", "question", *columns
    )
    return stage.finish(rows_in=len(rows), card=card, columns=("id", "question"))
