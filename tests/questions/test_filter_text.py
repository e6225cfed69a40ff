"""The text filters on texts made for them: language, duplicates and contamination."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from scalequest.questions.contamination import RULES, ContaminationRule, Index, TestQuestion
from scalequest.questions.duplicates import DuplicateRule, Duplicates, Sketch, find_duplicates, sketch
from scalequest.questions.language import LanguageRule, identified, language, languages
from scalequest.questions.text import BATCH, batches, masked, normalised, read_tokens, word_hash

ENGLISH = [
    "Ann has 3 apples and buys 4 more. How many apples does she have?",
    "José ate 2 of the 7 crêpes at the café. How many are left?",
    "Find the area of a circle with radius $r = 3π$ and angle θ = 30°.",
    "Let 𝑥 ∈ ℝ. What is the least value of 𝑥² − 4𝑥?",
    "Janet’s ducks lay 16 eggs — “fresh” ones. How many in a week?",
    "Solve $x^2 = 4$.",
    r"Simplify $2 \le x \le 3$ et cetera",
    "12 + 7 =",
    "Let ℵ₀ be the cardinality of the natural numbers. Is ℵ₀ + 1 = ℵ₀?",
    "А Senior Center sells 12 tickets at 3 dollars each. How much is that?",  # a Cyrillic А
]
FOREIGN = [
    "小明有3个苹果，又买了4个。他现在有多少个苹果？",
    "У Ани 3 яблока. Сколько яблок у неё?",
    "Ann hat 12 Äpfel und kauft noch 5 Äpfel. Wie viele Äpfel hat Ann jetzt?",
    "Ann a 12 pommes et en achete 5 de plus. Combien de pommes a-t-il maintenant ?",
    "Ann tiene 12 manzanas y compra 5 más. ¿Cuántas manzanas tiene Ann ahora?",
    "What is 3 plus 4? 答案是多少",
    "Bepaal de oppervlakte van een cirkel met straal 3.",
    "Berapa jumlah apel yang dimiliki Ani sekarang?",
]


@pytest.mark.parametrize("question", ENGLISH)
def test_english_stays(question: str) -> None:
    assert language(question, LanguageRule()) is None


@pytest.mark.parametrize("question", FOREIGN)
def test_other_languages_go(question: str) -> None:
    assert language(question, LanguageRule()) == "language"


def test_the_identifier_sees_what_function_words_do_not() -> None:
    question = "Bepaal de oppervlakte van een cirkel met straal 3."
    assert language(question, LanguageRule(identifier=False)) is None
    assert identified(question)[0] == "nl"


def test_paper_exact_is_the_ascii_rule() -> None:
    exact = LanguageRule(paper_exact=True)
    assert [language(question, exact) for question in ENGLISH] == [
        None,
        *["language"] * 4,
        *[None] * 3,
        *["language"] * 2,
    ]
    assert language("Wie viele hat der Mann und die Frau?", exact) is None
    assert language(" \n", exact) == "empty"


def test_many_at_once_are_judged_as_one_by_one() -> None:
    texts = [*ENGLISH, *FOREIGN, "", "  "]
    for rule in (LanguageRule(), LanguageRule(paper_exact=True)):
        assert languages(texts, read_tokens(texts), rule) == [language(text, rule) for text in texts]


def test_normalised_and_masked() -> None:
    assert normalised("  What IS\n 3 + 4 ?") == normalised("what is 3 + 4 ?")
    assert normalised("What is 3 + 4?") != normalised("What is 3 + 5?")
    assert masked("Ann has 3 apples, 1,200.5 in all.") == masked("Bob has 14 apples, 7 in all.")
    assert masked("Ann has 3 apples.") != masked("Ann has 3 pears.")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"Find $\dfrac12$ of $x^{2}$.", r"find \frac{1}{2} of  x^2", True),
        ("Ann’s 1,000 apples", "anns 1000  APPLES!", True),
        (r"$\left(x+1\right)$", "(x+1)", True),
        ("30°", r"$30^{\circ}$", True),
        ("x² − 1", "x^2 - 1", True),
        (r"$a \leq b \cdot 3$", r"\(a\le b\times 3\)", True),
        ("a ten-year old", "a ten year old", True),
        ("10{,}000", "10,000", True),
        ("Find $x-y$.", "Find $x - y$.", True),
        (r"$\alpha-x$", r"$\alpha - x$", True),
        ("ab-cd", "AB - CD", True),
        ("the x-axis", "the x axis", True),
        (r"30\degree", r"30^\circ", True),
        (r"$x \in \mathbb{R}$", r"$x \in ℝ$", True),
        (r"$x \lt 3$", "x < 3", True),
        ("3 ap\u200bples\u2060, 1\u00ad2 \u200epears\ufeff", "3 apples, 12 pears", True),
        ("3\ufe0f + 4\u034f", "3 + 4", True),
        ("3\u200b4", "3 4", False),
        ("a-b", "a b", False),
        ("x + 1", "x - 1", False),
        ("(1 + 2) * 3", "1 + (2 * 3)", False),
        ("the point (1,2)", "the point (12)", False),
        ("1.5", "15", False),
        ("5!", "5", False),
        (r"\frac{1}{23}", r"\frac{12}{3}", False),
    ],
)
def test_spellings_of_the_same_text_give_the_same_tokens(one: str, other: str, same: bool) -> None:
    first, second = read_tokens([one, other]).text_hashes()
    assert (first == second) is np.bool_(same)


@given(st.lists(st.text(max_size=40), max_size=12))
def test_a_text_has_the_same_tokens_in_any_company(texts: list[str]) -> None:
    tokens = read_tokens(texts)
    assert len(tokens.offsets) == len(texts) + 1
    alone = [read_tokens([text]).text_hashes()[0] for text in texts]
    assert tokens.text_hashes().tolist() == alone
    assert tokens.offsets[-1] == len(tokens.hashes)


def test_ngrams_stay_inside_a_text() -> None:
    tokens = read_tokens(["one two three", "", "four", "two three"]).words
    hashes, rows = tokens.ngrams(2)
    assert rows.tolist() == [0, 0, 3]
    assert hashes[1] == hashes[2] != hashes[0]
    assert read_tokens(["apple"]).hashes[0] == word_hash("apple")


# ------------------------------------------------------------------------------------------------- duplicates


def duplicates(texts: list[str], **how: object) -> Duplicates:
    rule = DuplicateRule(**how)  # type: ignore[arg-type]
    return find_duplicates(texts, Sketch.joined([sketch(tokens, rule) for _, tokens in batches(texts)]), rule)


STORY = (
    "A train leaves the station at noon and travels 60 miles per hour for 3 hours. How far does it travel?"
)


def test_same_numbers_and_similar_text_are_near_duplicates_and_other_numbers_a_template() -> None:
    texts = [
        STORY,
        STORY.replace("station", "old station"),
        STORY.replace("60", "70"),
        STORY.upper(),
        STORY.replace("60", "3").replace("3 hours", "60 hours"),
        "Find the sum of the roots of $x^2 - 5x + 6 = 0$.",
        "Find the product of the roots of $x^2 - 5x + 6 = 0$.",
        "Find the sum of the roots of $x^2 + 5x + 6 = 0$.",
    ]
    found = duplicates(texts)
    assert found.reasons == [None, "near_duplicate", None, "duplicate", None, None, None, None]
    assert found.kept.tolist() == [0, 0, 2, 0, 4, 5, 6, 7]
    assert found.template_rows == 2
    capped = duplicates(texts, max_per_template=2)
    assert [n for n, reason in enumerate(capped.reasons) if reason == "template"] == [4]
    assert duplicates(texts, near=False).reasons[1] is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("boys", "girls"),
        ("the letters of RADII", "the letters of MADAM"),
        ("the vertex of angle GAC", "the vertex of angle HAC"),
        ("larger", "smaller"),
        ("a hexagon", "an octagon"),
        ("positive", "negative"),
        ("its altitude", "its bisector"),
    ],
)
def test_one_word_can_make_another_question(one: str, other: str) -> None:
    text = "Of the 26 things in the large box on the table, 16 have been counted twice. How many are {}?"
    texts = [text.format(one), text.format(other), text.format(one) + " Please say"]
    assert duplicates(texts).reasons == [None, None, "near_duplicate"]


PAIRS = [
    json.loads(line)
    for line in Path(__file__).with_name("question_pairs.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['same']}-{pair['kind']}")
def test_what_is_asked_decides_and_not_the_story_before_it(pair: dict[str, Any]) -> None:
    """`missed` says why a pair that asks the same is none to the rule: it errs on the side of keeping."""
    for texts in ([pair["one"], pair["other"]], [pair["other"], pair["one"]]):
        found = duplicates(texts)
        assert (found.reasons[1] is not None) is (pair["same"] and not pair["missed"])
        assert found.reasons[0] is None


def test_what_looks_like_a_slip_is_a_word_if_others_write_it() -> None:
    text = "A shop has 15 {} on a table, and each of them costs $18. What do all of them cost together?"
    texts = [text.format("shirts"), text.format("skirts")]
    assert duplicates(texts).reasons == [None, "near_duplicate"]
    others = [f"Ann sews {n} {what} on day {n}." for n in range(5) for what in ("shirts", "skirts")]
    assert duplicates([*others, *texts]).reasons[-2:] == [None, None]


def test_every_row_that_goes_is_near_to_the_one_that_stays() -> None:
    """Similarity is not transitive: the end of a chain of small changes has little of its head."""
    words = [f"w{letter}rd".replace("w", letter * 2) for letter in "abcdefghijklmnopqrstuvwxyz"]
    text = "An old man sits on a bench near the river, and 7 birds fly over. How many wings do they have?"
    chain = [" ".join([*(f"{word}." for word in words[:n]), text]) for n in range(len(words))]
    found = duplicates(chain)
    gone = [n for n, reason in enumerate(found.reasons) if reason]
    assert gone, "near-duplicates are found"
    assert len(gone) < len(chain) - 1
    for n in gone:
        kept = int(found.kept[n])
        assert found.reasons[kept] is None
        alike = Indel.normalized_similarity(normalised(chain[n]), normalised(chain[kept]))
        assert alike >= DuplicateRule().min_similarity


def test_the_survivor_is_the_first_whatever_the_chain_and_the_batch() -> None:
    text = "A big red bus with many seats for old people drives slowly along the river to town for 5 miles."
    places = [match.start() for match in re.finditer(" ", text)]
    chain = [f"{text[:place]} very{text[place:]}" for place in places]
    filler = [f"What is {n} + {2 * n}?" for n in range(BATCH)]  # the last link lies in another batch
    found = duplicates([*chain, *filler, chain[0] + " now"])
    assert {found.kept[n] for n in range(len(chain))} == {0}
    assert found.kept[-1] == 0
    assert Counter(found.reasons) == {None: BATCH + 1, "near_duplicate": len(chain)}


def test_recall_of_a_band_scheme() -> None:
    rule = DuplicateRule()
    assert rule.recall(1.0) == 1
    assert rule.recall(0.5) > 0.9 > rule.recall(0.3)


def variants(text: str, rng: random.Random) -> dict[str, str]:
    """A text as a generator may write it again."""
    words = text.split(" ")
    place = rng.randrange(1, len(words))
    return {
        "verbatim": text,
        "case": text.upper() if "\\" not in text and "$" not in text else text.swapcase().lower(),
        "whitespace": re.sub(r" ", "  \n", text),
        "latex": text.replace("\\frac", "\\dfrac")
        .replace("$", " ")
        .replace(" (", " \\left(")
        .replace(")", "\\right)"),
        "one word": " ".join([*words[:place], "really", *words[place:]]),
    }


def test_where_no_row_is_left_nothing_is_found() -> None:
    texts = ["What is 3 + 4?", "What is 3 + 4 ?"]
    rule = DuplicateRule(max_per_template=1)
    (found,) = (
        find_duplicates(texts, sketch(tokens, rule), rule, np.zeros(2, bool)) for _, tokens in batches(texts)
    )
    assert (found.reasons, found.kept.tolist()) == ([None, None], [0, 1])
    assert (found.template_rows, found.candidates) == (0, 0)


@pytest.mark.data
def test_planted_duplicates_of_real_questions_are_found(data_dir: Path) -> None:
    texts = (
        _questions(data_dir, "gsm8k_train", "question")[:300]
        + _questions(data_dir, "math_train", "problem")[:300]
    )
    before = duplicates(texts).reasons
    texts = [text for text, reason in zip(texts, before, strict=True) if reason is None]
    rng = random.Random(1)
    for name in ("verbatim", "case", "whitespace", "latex", "one word"):
        planted = [variants(text, rng)[name] for text in texts]
        found = duplicates([*texts, *planted])
        hit = found.kept[len(texts) :] == np.arange(len(texts))
        assert hit.mean() == 1 if name != "one word" else hit.mean() >= 0.95, (name, hit.mean())


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "columns", "answer"),
    [("asdiv_test", ("body", "question"), "answer"), ("svamp_test", ("Body", "Question"), "Answer"),
     ("math_test", ("problem",), "answer")],
)  # fmt: skip
def test_no_question_with_another_answer_goes(
    data_dir: Path, name: str, columns: tuple[str, ...], answer: str
) -> None:
    parts = [_questions(data_dir, name, column) for column in columns]
    texts, answers = [" ".join(part) for part in zip(*parts, strict=True)], _questions(data_dir, name, answer)
    found = duplicates(texts)
    gone = [n for n, reason in enumerate(found.reasons) if reason == "near_duplicate"]
    assert [texts[n] for n in gone if answers[n] != answers[int(found.kept[n])]] == []


# ---------------------------------------------------------------------------------------------- contamination


def rules_of(texts: list[str], tests: list[str], **how: object) -> list[str | None]:
    questions = [TestQuestion("b", str(n), test) for n, test in enumerate(tests)]
    index = Index(questions, ContaminationRule(**how))  # type: ignore[arg-type]
    return [match and match.rule for match in index.matches(read_tokens(texts))]


def test_every_rule_of_contamination() -> None:
    long = (
        "A baker has 12 trays with 8 rolls each and sells 35 rolls in the morning. How many rolls are left?"
    )
    short = "What is the least prime above 100?"
    texts = [
        long,
        long.lower().replace(" ", "  "),
        "Yesterday was a holiday. " + long,
        long.replace("12", "15").replace("35", "20"),
        "Tell me please: " + short,
        "What is the least prime above 200?",
        "What is the least prime above 100 that ends in 3 and has a digit sum that is a square and even?",
        "A baker has 12 trays of cakes. How many cakes does he have?",
    ]
    expected = ["exact", "exact", "ngram", "numbers", "inside", None, None, None]
    assert rules_of(texts, [long, short]) == expected
    assert rules_of(texts, [long, short], rules=["exact"]) == ["exact", "exact", *[None] * 6]
    assert set(expected) - {None} == set(RULES)


def test_invisible_characters_hide_no_copy() -> None:
    hidden = "\u200b".join(STORY).replace("miles", "mi\u00adles") + "\ufeff"
    assert normalised(hidden) == normalised(STORY)
    assert masked(hidden) == masked(STORY)
    assert duplicates([STORY, hidden, "\u2066" + STORY + "\u2069"]).reasons == [
        None,
        "duplicate",
        "duplicate",
    ]
    assert rules_of([hidden], [STORY]) == rules_of([STORY], [hidden]) == ["exact"]
    assert rules_of(["Read this. " + hidden], [STORY]) == ["ngram"]


def test_boilerplate_in_common_is_no_match_but_counts_for_the_clean_ratio() -> None:
    tail = " Express your answer in the form $a:b$ where $a$ and $b$ are relatively prime positive integers."
    test = "Find the ratio of the area of a square to that of the circle around it if it is 4 wide." + tail
    other = (
        "A shop mixes nuts and raisins so that the price of a pound is the same as before. What is the ratio?"
        + tail
    )
    index = Index([TestQuestion("b", "0", test)], ContaminationRule())
    assert index.matches(read_tokens([other])) == [None]
    assert index.clean_ratios() == [{"benchmark": "b", "questions": 1, "met": 1, "clean": 0.0}]
    assert rules_of([other], [test], overlap=0.0) == ["ngram"]


def test_of_several_tests_that_begin_alike_the_one_in_the_row_is_found() -> None:
    """Which comes first says nothing about which the row holds."""
    opening = "Ann walks from her house to the old mill beside the river in exactly 40 minutes"
    short = opening + " and rests there for 5. How long is she away?"
    long = opening + ". " + " ".join(f"Then she counts {n} ducks and {n + 1} white swans." for n in range(12))
    row = "This one is well known. " + short + " Give the time in minutes, as a whole number."
    assert rules_of([row], [long, short]) == rules_of([row], [short, long]) == ["ngram"]
    index = Index(
        [TestQuestion("b", str(n), test) for n, test in enumerate((long, short))], ContaminationRule()
    )
    (match,) = index.matches(read_tokens([row]))
    assert match is not None
    assert match.test.question == short
    assert index.clean_ratios()[0]["met"] == 2
    # runs shared with two tests do not add up, nor does one that stands in a test twice
    halves = [opening + f" and {n} " + "x y z " * 20 for n in (1, 2)]
    assert rules_of([opening + " on a cold day in spring, and so on, and on and on"], halves) == [None]


@pytest.mark.data
def test_gsm8k_and_math_variants_are_all_flagged(data_dir: Path) -> None:
    tests = (
        _questions(data_dir, "gsm8k_test", "question")[:300]
        + _questions(data_dir, "math_test", "problem")[:300]
    )
    rng = random.Random(1)
    for name in ("verbatim", "case", "whitespace", "latex"):
        found = rules_of([variants(test, rng)[name] for test in tests], tests)
        assert found == ["exact"] * len(tests), name
    train = _questions(data_dir, "gsm8k_train", "question")
    flagged = [rule for rule in rules_of(train, _questions(data_dir, "gsm8k_test", "question")) if rule]
    assert len(flagged) <= 5, "GSM8K's train and test sets share next to nothing"


def _questions(data_dir: Path, name: str, column: str) -> list[str]:
    with gzip.open(data_dir / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)[column] for line in file]


@pytest.mark.data
def test_the_benchmark_of_the_filters_runs_and_meets_its_recall(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "measures.json"
    words = [
        sys.executable,
        str(root / "bench/filters.py"),
        "--rows",
        "3000",
        "--peer-rows",
        "0",
        "--output",
        str(out),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    measures = json.loads(out.read_text())
    assert measures["recall"] >= 0.95
    trivial = ("verbatim", "case", "whitespace", "latex")
    assert all(
        measures[f"{what}_recall"][kind] == 1 for what in ("duplicate", "contamination") for kind in trivial
    )
