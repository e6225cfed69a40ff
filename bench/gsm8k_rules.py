r"""The same outputs judged by our grader and by the rules of lm-eval's GSM8K task; every difference printed.

    python eval/evaluate.py --models '{smollm2: runs/smollm2/models/smollm2-135m-instruct}' \
        --chat_format smollm2 --benchmarks eval/benchmarks/gsm8k.yaml --sampling.max_tokens 384 \
        --engine.dtype bfloat16 --output_dir runs/smollm2/gsm8k
    python bench/gsm8k_rules.py runs/smollm2/gsm8k/smollm2

lm-eval takes one of two filters to an output, and compares what they find with the reference as text, case,
commas, dollar signs, everything up to `#### ` and a full stop at the end apart. `strict-match` takes the
first number behind `####`; `flexible-extract` takes the last number of the output. Both are written here from
their published regular expressions, as a rule to compare with: nothing in src/ uses them. Seconds, one core.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable

from scalequest.records import Row, read_rows

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
IGNORED = (",", r"\$", "(?s).*#### ", r"\.$")


def strict(output: str) -> str | None:
    """`strict-match`."""
    found = STRICT.search(output)
    return found[1].strip() if found else None


def flexible(output: str) -> str | None:
    """`flexible-extract`."""
    found = [next(group for group in match.groups() if group) for match in FLEXIBLE.finditer(output)]
    return found[-1].strip() if found else None


def exact_match(answer: str | None, reference: str) -> bool:
    """lm-eval's comparison of texts."""
    if answer is None:
        return False
    texts = [answer, reference]
    for pattern in IGNORED:
        texts = [re.sub(pattern, "", text) for text in texts]
    return texts[0].lower() == texts[1].lower()


RULES: dict[str, Callable[[str], str | None]] = {"strict-match": strict, "flexible-extract": flexible}


def differing(rows: list[Row], rule: Callable[[str], str | None]) -> list[Row]:
    """Rows on which a rule's verdict is not ours, with what it found."""
    judged = [{**row, "theirs": rule(row["completion"])} for row in rows]
    return [row for row in judged if exact_match(row["theirs"], row["reference"]) != row["correct"]]


def main() -> None:
    """Judge, count, print."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", help="folder of one model in an evaluation: OUTPUT/LABEL")
    parser.add_argument("--benchmark", default="gsm8k", help="default: gsm8k")
    parser.add_argument("--rows", type=int, default=40, help="number of differing rows printed per rule (40)")
    options = parser.parse_args()
    rows = [row for row in read_rows(options.folder) if row["benchmark"] == options.benchmark]
    ours = sum(row["correct"] for row in rows)
    print(f"{len(rows)} outputs; ours: {ours} correct ({100 * ours / max(1, len(rows)):.1f} %)")
    for name, rule in RULES.items():
        right = sum(exact_match(rule(row["completion"]), row["reference"]) for row in rows)
        rest = differing(rows, rule)
        only = Counter("only ours" if row["correct"] else "only theirs" for row in rest)
        print(
            f"\n{name}: {right} correct ({100 * right / max(1, len(rows)):.1f} %); "
            f"{len(rest)} verdicts differ ({only['only ours']} correct only by ours, "
            f"{only['only theirs']} only by theirs)"
        )
        for row in rest[: options.rows]:
            who = "ours" if row["correct"] else name
            cut = ", cut" if row["truncated"] else ""
            print(
                f"  {row['id']}: right only by {who}{cut}; reference {row['reference']!r}, "
                f"ours {row['extracted']!r} ({row['rule']}), {name} {row['theirs']!r}; "
                f"the end: {row['completion'][-120:]!r}"
            )


if __name__ == "__main__":
    main()
