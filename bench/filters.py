r"""Measure how fast the text filters process a million questions, and how many planted cases they find.

    python bench/filters.py                          # one million rows, about five minutes on 2 cores
    python bench/filters.py --rows 20000 --peer-rows 2000

The rows: 70 % derived from the training questions of GSM8K and MATH (halves of two questions, other numbers,
other names), 30 % from TinyMath's; of all rows, 5 % are planted near-duplicates of other rows, 1 % are others
reworded in subtler ways, 1 % look like another row but ask something else, and 1 % are planted test
questions, with each kind of planted row in equal parts. Language, exact and near-duplicates, and
contamination with every benchmark then run as in the filter stage (`read_text`), with its defaults; the same
parts run once more, timed separately. The language identifier is also timed on its own.

The other tool is datatrove's MinHash deduplication (signatures, buckets, clusters) with the same bands and
rows per band on the last `--peer-rows` rows (datatrove_minhash.py). It may be in an environment of its own,
whose interpreter `--datatrove-python` names; both are timed `--peer-repeats` times, alternating:

    python -m venv .venv-datatrove && .venv-datatrove/bin/pip install datatrove regex tokenizers xxhash
    python bench/filters.py --datatrove-python .venv-datatrove/bin/python

Targets: 120 s, 4 GB, recall 0.97 of the planted duplicates, 1 % of other questions dropped, 5 times as fast
as datatrove.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from comparisons import add_option, append, timing

from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.questions.contamination import ContaminationRule, Index, TestQuestion
from scalequest.questions.duplicates import DuplicateRule, Sketch, find_duplicates, sketch
from scalequest.questions.filters import FilterConfig, read_text
from scalequest.questions.language import LanguageRule, identified, languages
from scalequest.questions.text import batches
from scalequest.records import read_rows

NAMES = (
    "Ann",
    "Ben",
    "Carla",
    "Dev",
    "Elif",
    "Farid",
    "Gina",
    "Hugo",
    "Iris",
    "Jonas",
    "Kira",
    "Liam",
    "Mona",
)
CLAUSES = (
    "It was a sunny day.",
    "Nobody else was there.",
    "Show your work.",
    "Everything else stayed as it was.",
)


# ------------------------------------------------------------------------------------------------------- rows


def spun(texts: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Yield endless questions: the first part of one, the last of another, other numbers and names."""
    cut = [re.split(r"(?<=[.?!])\s+", text) for text in texts]
    cut = [sentences for sentences in cut if len(sentences) > 1]
    while True:
        head, tail = rng.choice(cut), rng.choice(cut)
        text = " ".join([*head[: len(head) // 2 or 1], *tail[len(tail) // 2 :]])
        text = re.sub(r"\d+", lambda match: str(rng.randrange(1, 10 ** min(6, len(match[0])) + 1)), text)
        name = rng.choice(NAMES)
        yield re.sub(r"\b(?:She|He|They|The|[A-Z][a-z]{2,}) (?=\w+s\b)", f"{name} ", text, count=1)


def changed(text: str, kind: str, rng: random.Random) -> str:
    """Return a text in the form in which a generator may write it again."""
    words = text.split(" ")
    place = rng.randrange(1, max(2, len(words)))
    if kind == "case":
        return text if "$" in text or "\\" in text else text.upper()
    if kind == "whitespace":
        return text.replace(" ", "  ").replace(". ", ".\n")
    if kind == "latex":
        text = text.replace("\\frac", "\\dfrac").replace("$", " ")
        return re.sub(r"\^(\d)(?!\d)", r"^{\1}", text).replace(" (", " \\left(")
    if kind == "word":
        return " ".join([*words[:place], "quite", *words[place:]])
    if kind == "clause":
        return f"{rng.choice(CLAUSES)} {text}"
    if kind == "please":
        return (
            f"Please {text[0].lower()}{text[1:]}"
            if rng.random() < 0.5
            else re.sub(r"[.?]*$", ", please?", text)
        )
    long = [at for at, word in enumerate(words) if re.fullmatch("[a-z]{5,}", word)]
    if kind == "typo" and long:
        at = rng.choice(long)
        letter = rng.randrange(1, len(words[at]) - 1)
        start, here, rest = words[at][:letter], words[at][letter], words[at][letter + 1 :]
        slips = start + rest[0] + here + rest[1:], start + rest, start + here + here + rest
        return " ".join([*words[:at], rng.choice(slips), *words[at + 1 :]])
    if kind == "moved" and long:
        at = rng.choice(long)
        return " ".join([*words[: at - 1], *words[at - 1 : at + 1][::-1], *words[at + 1 :]])
    if kind == "exchanged" and long:
        return " ".join(
            [*words[: long[-1]], rng.choice(("yellow", "sister", "receives")), *words[long[-1] + 1 :]]
        )
    if kind == "traded" and long and long[-1] > long[0] + 1:  # a word moved by one place asks the same
        at, other = long[0], long[-1]
        words[at], words[other] = words[other], words[at]
        return " ".join(words)
    if kind == "numbers":
        return re.sub(r"\d+", lambda match: str(int(match[0][:9]) + rng.randrange(1, 9)), text)
    return text


DUPLICATES = ("verbatim", "case", "whitespace", "latex", "word", "clause")
REWORDED = ("typo", "please", "moved")
OTHERS = ("exchanged", "traded")  # they look like another row, but ask something else
TESTS = (*DUPLICATES[:4], "numbers", "clause")


def build(
    rows: int, training: Sequence[str], tiny: Sequence[str], tests: Sequence[TestQuestion], seed: int
) -> tuple[list[str], dict[int, tuple[str, int]], dict[int, str]]:
    """Return texts; planted copies, by row: kind and original; planted test questions, by row."""
    rng = random.Random(seed)
    leaks = rows // 100
    plants = {DUPLICATES: rows // 20, REWORDED: rows // 100, OTHERS: rows // 100}
    twins = sum(plants.values())
    rest = rows - twins - leaks
    sources = spun(training, rng), spun(tiny, rng)
    texts = list(dict.fromkeys(next(sources[rng.random() > 0.7]) for _ in range(rest)))
    while len(texts) < rest:  # the same text came up twice by chance
        texts = list(dict.fromkeys([*texts, *(next(sources[0]) for _ in range(rest - len(texts)))]))
    duplicates: dict[int, tuple[str, int]] = {}
    leaked: dict[int, str] = {}
    originals = rng.sample(range(rest), twins)
    kinds = [kinds[n % len(kinds)] for kinds, count in plants.items() for n in range(count)]
    for kind, original in zip(kinds, originals, strict=True):
        text = changed(texts[original], kind, rng)
        duplicates[len(texts)] = "verbatim" if text == texts[original] else kind, original
        texts.append(text)
    for number in range(leaks):
        leaked[len(texts)] = TESTS[number % len(TESTS)]
        texts.append(changed(rng.choice(tests).question, leaked[len(texts)], rng))
    return texts, duplicates, leaked


# --------------------------------------------------------------------------------------------------- measures


def staged(texts: Sequence[str], index: Index) -> dict[str, tuple[float, float]]:
    """Return the wall-clock and CPU seconds of each step on its own."""
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter(), time.process_time()
        value = call()
        spent[name][0] += time.perf_counter() - start[0]
        spent[name][1] += time.process_time() - start[1]
        return value

    rule, parts = DuplicateRule(), []
    read = batches(texts)
    while (batch := timed("tokens", lambda: next(read, None))) is not None:
        start, tokens = batch
        own = texts[start : start + len(tokens.offsets) - 1]
        timed("language", lambda own=own, tokens=tokens: languages(own, tokens, LanguageRule()))
        parts.append(timed("sketches", lambda tokens=tokens: sketch(tokens, rule)))
        timed("contamination", lambda tokens=tokens: index.matches(tokens))
    timed("duplicates", lambda: find_duplicates(texts, Sketch.joined(parts), rule))
    return {name: (wall, own) for name, (wall, own) in spent.items()}


def ours(texts: Sequence[str]) -> float:
    """Return the seconds of exact and near-duplicate detection alone, including tokenisation."""
    start, rule = time.perf_counter(), DuplicateRule()
    find_duplicates(texts, Sketch.joined([sketch(tokens, rule) for _, tokens in batches(texts)]), rule)
    return time.perf_counter() - start


def theirs(python: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return the seconds of datatrove with the same bands, the rows to remove, and its version."""
    rule = DuplicateRule()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(list(texts)), encoding="utf-8")
        command = [python, str(Path(__file__).with_name("datatrove_minhash.py")), str(file)]
        command += [str(rule.bands), str(rule.rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"datatrove failed under {python}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> int:
    """Build the rows, filter them, print the measurements and compare them with the targets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--peer-rows", type=int, default=50_000, help="number of rows for datatrove; 0 leaves it out"
    )
    parser.add_argument("--peer-repeats", type=int, default=3, help="timed runs of both on them (3)")
    parser.add_argument("--datatrove-python", default=sys.executable, help="interpreter that has datatrove")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--benchmarks", default="eval/benchmarks/*.yaml", help="pattern of benchmark YAML files"
    )
    parser.add_argument("--gsm8k", default="$SCALEQUEST_DATA/gsm8k_train.jsonl.gz")
    parser.add_argument("--math", default="$SCALEQUEST_DATA/math_train.jsonl.gz")
    parser.add_argument("--tinymath", default="recipes/tiny/data/seed_questions.jsonl.gz")
    parser.add_argument("--output", help="also write the measurements to this JSON file")
    add_option(parser)
    options = parser.parse_args()

    tests = [
        TestQuestion(name.name, problem.id, problem.question)
        for name in (load_benchmark(file) for file in sorted(glob(options.benchmarks)))
        for problem in name.problems
    ]
    training = [row["question"] for row in read_rows(options.gsm8k)]
    training += [row["problem"] for row in read_rows(options.math)]
    tiny = [row["question"] for row in read_rows(options.tinymath)]
    texts, twins, leaks = build(
        options.rows, training, tiny, [t for t in tests if not t.benchmark.startswith("tiny")], options.seed
    )
    characters = sum(map(len, texts))
    print(
        f"{len(texts):,} rows, {characters / len(texts):.0f} characters each, {len(tests):,} test questions"
    )

    config = FilterConfig(
        input=["bench"],
        steps=["language", "duplicates", "contamination"],
        contamination=ContaminationRule(benchmarks=[options.benchmarks]),
    )
    rows = [{"id": number, "question": text} for number, text in enumerate(texts)]
    wall, own = time.perf_counter(), time.process_time()
    found = read_text(rows, config.made(tests))
    wall, own = time.perf_counter() - wall, time.process_time() - own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"all steps: {wall:.1f} s, {own:.1f} s of CPU time, peak {peak:.2f} GB")
    print("dropped:", dict(Counter(filter(None, found.reasons))))

    facts: dict[str, Any] = {"rows": len(texts), "seconds": wall, "processor_seconds": own, "peak_gb": peak}
    facts["steps"] = staged(texts, Index(tests, config.contamination))
    for name, (step_wall, step_own) in facts["steps"].items():
        print(f"  {name:14} {step_wall:7.1f} s {step_own:7.1f} s of CPU time")

    kept = found.outcomes["duplicates"].found.kept
    hits: dict[str, list[bool]] = defaultdict(list)
    for row, (kind, original) in twins.items():
        dropped = found.reasons[row] is not None and kind not in OTHERS  # or its original was, if not for it
        hits[kind].append(dropped or bool(kept[row] == kept[original]))
    flagged: dict[str, list[bool]] = defaultdict(list)
    for row, kind in leaks.items():
        flagged[kind].append(found.reasons[row] is not None)
    facts["duplicate_recall"] = {kind: float(np.mean(hit)) for kind, hit in hits.items()}
    facts["contamination_recall"] = {kind: float(np.mean(hit)) for kind, hit in flagged.items()}
    for name, kinds in (("recall", DUPLICATES), ("reworded_recall", REWORDED), ("others_dropped", OTHERS)):
        facts[name] = float(np.mean([hit for kind in kinds for hit in hits[kind]]))
    made = {*twins, *leaks}
    partners = {original for _, original in twins.values()}
    facts["other_near_duplicates"] = sum(
        reason == "near_duplicate" and row not in made and row not in partners
        for row, reason in enumerate(found.reasons)
    )
    facts["other_contamination"] = sum(
        reason == "contamination" and row not in made for row, reason in enumerate(found.reasons)
    )
    for key in ("duplicate_recall", "contamination_recall"):
        print(key, ", ".join(f"{kind} {share:.3f}" for kind, share in facts[key].items()))
    print(
        f"recall of planted duplicates {facts['recall']:.4f}, of subtler ones "
        f"{facts['reworded_recall']:.4f}; other questions dropped {facts['others_dropped']:.4f}; "
        f"rows not planted: near-duplicates {facts['other_near_duplicates']}, "
        f"contamination {facts['other_contamination']}"
    )
    train = Index([test for test in tests if test.benchmark == "gsm8k"], config.contamination)
    gsm8k = training[:7473]
    false = [n for start, tokens in batches(gsm8k) for n, m in enumerate(train.matches(tokens), start) if m]
    facts["gsm8k_train_flagged"] = len(false)
    print(f"GSM8K train compared with its test set: {len(false)} of {len(gsm8k):,} flagged")

    sample = texts[:2000]
    start = time.perf_counter()
    for text in sample:
        identified(text)
    facts["identifier_us"] = (time.perf_counter() - start) / len(sample) * 1e6
    print(f"language identifier on every row: {facts['identifier_us']:.0f} µs per row")

    bars = {
        "seconds <= 120": wall <= 120,
        "peak <= 4 GB": peak <= 4,
        "recall >= 0.97": facts["recall"] >= 0.97,
        "other questions dropped <= 0.01": facts["others_dropped"] <= 0.01,
    }
    if options.peer_rows:
        some = texts[-options.peer_rows :]
        repeats = [(ours(some), theirs(options.datatrove_python, some)) for _ in range(options.peer_repeats)]
        seconds, peer = [mine for mine, _ in repeats], [its["seconds"] for _, its in repeats]
        facts |= {"peer_rows": len(some), "ours_seconds": seconds, "datatrove_seconds": peer}
        facts["ratio"] = statistics.median(b / a for a, b in zip(seconds, peer, strict=True))
        print(
            f"deduplication of {len(some):,} rows: {statistics.median(seconds):.2f} s, datatrove "
            f"{statistics.median(peer):.2f} s ({repeats[0][1]['removed']:,} to remove): "
            f"{facts['ratio']:.1f} times as fast"
        )
        rates = ([len(some) / spent for spent in side] for side in (seconds, peer))
        what = f"near-duplicates among {len(some):,} questions, MinHash with the same bands"
        version = repeats[0][1]["version"]
        compared = timing("filters/near-duplicates/datatrove", what, "datatrove", version, "rows/s", *rates)
        append(options.comparisons, [compared])
        bars["ratio >= 5"] = facts["ratio"] >= 5
    for bar, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'} {bar}")
    if options.output:
        Path(options.output).write_text(
            json.dumps({**facts, "bars": bars}, indent=2) + "\n", encoding="utf-8"
        )
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
