"""Who says whether a question can be solved: a judge's verdict, or the solver's agreement with itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from scalequest.chat import BoundFormat
from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT, SHARE
from scalequest.pages import elements
from scalequest.questions.agreement import Agreement
from scalequest.questions.judges import FAULTS, Ask, Said
from scalequest.questions.steps import Context, ModelStep, StepReport
from scalequest.records import Row, row_seed

# A yes or no that closes a clause, in whatever quotes, boxes or formulas; not "Yes or No", "Yes / No". Before
# a bracket or dash ("No – the price is missing") it has to open one: "there is no (real) root" is no verdict.
_CLOSERS = r"[*_}\"'`”’)\]>$\\]*"
_VERDICT = re.compile(
    rf"(?<!or )(?<!/)(?<!/ )\b(?:yes|no)\b(?!\s*/)(?={_CLOSERS}(?:[.,;:!?\n]|\s*$))"
    rf"|(?:(?<=[:.!?] )|(?<=[*:\n])|(?<![\s\S]))(?:yes|no)\b(?={_CLOSERS}\s*(?:[(–—]|-\s|because\b))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SolvabilityRule:
    """Who says whether a question can be solved."""

    judge: Literal["agreement", "model", "server"] = option(
        "agreement", "the solver's agreement with itself, or the verdict of a model, here or behind a server"
    )
    min_agreement: float = option(
        0.5, "judge agreement: smallest share of the samples that give the majority's answer", within=SHARE
    )
    prompt: str | None = option(None, "judge model or server: YAML file of the prompt", fingerprint=False)
    votes: int = option(
        1,
        "judge model or server: replies per question; more than half of their verdicts must be Yes",
        within=COUNT,
    )
    paper_exact: bool = option(
        False, "judge model or server: 'yes' anywhere in the reply counts as Yes (paper's code)"
    )


def verdict(text: str, paper_exact: bool = False) -> bool | None:
    """The judge's last explicit Yes or No; None if it gives none.

    Explicit is a yes or no that closes a clause ("Verdict: **Yes**", "No, because ..."); "there is no missing
    number" and "Yes or No" are not. With `paper_exact` a yes anywhere is Yes and anything else No, as in the
    authors' code.
    """
    if paper_exact:
        return "yes" in text.lower()
    found = _VERDICT.findall(text)
    return found[-1].lower() == "yes" if found else None


def voted(texts: Sequence[str], paper_exact: bool = False) -> bool | None:
    """Yes if more than half of the replies that give a verdict say so; None if none gives one."""
    given = [said for text in texts if (said := verdict(text, paper_exact)) is not None]
    return 2 * sum(given) > len(given) if given else None


def judged(replies: Sequence[Said], rule: SolvabilityRule) -> Row:
    """Columns of a judged question: the verdict, what the paper's substring rule says, the first reply.

    A reply that was cut has no vote: a yes or no in half of it is a step on the way. The authors' code counts
    it, and so does `paper_exact`. A question to which no reply came (`Said.fault`) has no vote by either
    rule. The two rules disagree if they come to different decisions.
    """
    came = [reply for reply in replies if reply.fault is None]
    explicit = voted([reply.whole for reply in came])
    substring = voted([reply.text for reply in came], paper_exact=True)
    said = substring if rule.paper_exact else explicit
    votes = {"verdicts": [_vote(reply, rule) for reply in replies]} if len(replies) > 1 else {}
    cut = said is None and all(reply.finish_reason == "length" for reply in replies)
    faults = [reply.fault for reply in replies if reply.fault]
    return {
        "verdict": said,
        **votes,
        "verdict_by_substring": substring,
        "rules_disagree": (explicit is True) != bool(substring),
        "verdict_text": replies[0].text,
        "verdict_finish_reason": "length" if cut else "stop" if said is None else replies[0].finish_reason,
        "verdict_fault": faults[0] if said is None and faults else None,
    }


def _vote(reply: Said, rule: SolvabilityRule) -> bool | None:
    if reply.fault is not None:
        return None
    return verdict(reply.text if rule.paper_exact else reply.whole, rule.paper_exact)


def unsolvable(measures: Row, rule: SolvabilityRule) -> str | None:
    """Drop by the verdict or the agreement that was measured."""
    if rule.judge == "agreement":
        return "unsolvable" if measures["agreement"] < rule.min_agreement else None
    if measures["verdict"] is None:
        if fault := measures.get("verdict_fault"):
            return str(fault)
        return "verdict_truncated" if measures["verdict_finish_reason"] == "length" else "verdict_unparsed"
    return None if measures["verdict"] else "unsolvable"


# ------------------------------------------------------------------------------------------------- the filter


@dataclass(frozen=True)
class Verdicts:
    """Asks a judge for `rule.votes` verdicts."""

    rule: SolvabilityRule
    context: Context
    shown: ClassVar[tuple[str, ...]] = ("verdict",)
    counted: ClassVar[tuple[str, ...]] = ("rules_disagree",)

    def requests(self, row: Row, chat: BoundFormat | None = None) -> list[Ask]:
        """One question per vote."""
        assert self.context.prompt is not None, "a judge without a prompt"
        text = self.context.prompt.fill(row["question"])
        return [Ask(f"{row['id']}/{vote}", text, self._seed(row, vote)) for vote in range(self.rule.votes)]

    def _seed(self, row: Row, vote: int) -> int | None:
        greedy = self.context.sampling.temperature == 0
        return None if greedy else row_seed(self.context.seed, "judge", row["id"], vote)

    def columns(self, replies: Sequence[Said], chat: BoundFormat | None = None) -> Row:
        """Those of `judged`, and the tokens of all replies."""
        return judged(replies, self.rule) | {"verdict_tokens": sum(reply.tokens for reply in replies)}


@dataclass(frozen=True)
class SolvabilityStep(ModelStep):
    """Drops questions that the judge, or the solver's agreement, says cannot be solved."""

    rule: SolvabilityRule
    asks: Agreement | Verdicts
    reasons: ClassVar[tuple[str, ...]] = (*FAULTS, "verdict_truncated", "verdict_unparsed", "unsolvable")

    @classmethod
    def of(cls, rule: SolvabilityRule, context: Context) -> SolvabilityStep:
        """Asks what `rule.judge` says."""
        return cls(rule, Agreement(context) if rule.judge == "agreement" else Verdicts(rule, context))

    @classmethod
    def check(cls, rule: SolvabilityRule) -> None:
        """A judge has to have a prompt."""
        if rule.judge != "agreement" and not rule.prompt:
            raise ConfigError(f"solvability.prompt: judge: {rule.judge} needs a prompt file")

    def reason(self, row: Row) -> str | None:
        """`unsolvable` of the row."""
        return unsolvable(row, self.rule)

    def report(self, receipt: Mapping[str, Any]) -> StepReport | None:
        """How many verdicts there were, and on how many the two rules disagree; of a judge alone."""
        drops, counts = receipt["dropped"], receipt.get("counts", {})
        if "rules_disagree" not in counts:
            return None
        unparsed = sum(drops.get(name, 0) for name in ("verdict_unparsed", "verdict_truncated", *FAULTS))
        judged_rows = drops.get("unsolvable", 0) + unparsed + receipt["kept"]
        facts = {
            "judged": judged_rows,
            "no_verdict": unparsed,
            "no_verdict_share": unparsed / max(1, judged_rows),
            "rules_disagree": counts["rules_disagree"],
        }
        note = "rules_disagree: the last explicit verdict and the paper's 'yes anywhere' differ."
        return StepReport([elements.section("Solvability", elements.table([facts]), note=note)], facts)
