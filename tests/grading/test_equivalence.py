from __future__ import annotations

import ast
import gzip
import json
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from threading import Thread

import pytest

from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.grading import Grader, equivalent, extract, majority
from scalequest.grading.latex.exact import value


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("18", "18"),
        ("18.0", "18"),
        ("$1,234.50", "1234.5"),
        ("\\$34.00", "34"),
        ("50\\%", "50"),
        ("25 apples", "25"),
        ("10\\text{ cm}^2", "10"),
        ("\\frac{3}{6}", "1/2"),
        ("\\dfrac12", "0.5"),
        ("3\\frac{1}{2}", "\\frac72"),
        ("5.47 \\times 10^5", "5.47e5"),
        ("2^{10}", "1024"),
        ("32,\\!349", "32349"),
        ("x = 5", "5"),
        ("4210_{7}", "4210_7"),
        ("(3, 4)", "\\left(3,4\\right)"),
        ("2, 1", "1, 2"),
        ("7 \\text{ and } -\\frac{29}{3}", "7,-\\frac{29}{3}"),
        ("\\{1, 2\\}", "\\{2,1\\}"),
        ("(-\\infty, 1] \\cup [2, 3)", "[2,3)\\cup(-\\infty,1]"),
        ("(B)", "B"),
        ("\\text{Tuesday}", "tuesday"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("2*pi", "2\\pi"),
        ("x^2-1", "(x-1)(x+1)"),
        ("\\begin{pmatrix} 1/2 \\\\ 3 \\end{pmatrix}", "\\begin{pmatrix} \\frac12 \\\\ 3 \\end{pmatrix}"),
        ("10!", "3628800"),
        # values
        ("\\sin(90^\\circ - t)", "\\cos t"),
        ("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5+2\\sqrt{6}}"),
        ("\\frac{1}{i}", "-i"),
        ("(1+i)^2", "2i"),
        ("\\log_2 8", "3"),
        ("2\\ln 3", "\\ln 9"),
        ("\\ln (x-1)^2", "2\\ln|x-1|"),
        ("\\tan^{-1} 1", "\\pi/4"),
        ("\\frac{n(n+1)}{2}", "\\sum_{k=1}^{n} k"),
        ("(-1)^n", "\\cos(n\\pi)"),
        ("n!", "n(n-1)!"),
        ("\\binom{5}{2}", "10"),
        ("0.\\overline{3}", "\\frac13"),
        ("\\int_0^1 x\\,dx", "\\frac12"),
        ("\\frac12\\begin{pmatrix}2\\\\4\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        # lists, sets, intervals, relations
        ("3 \\pm \\sqrt2", "3+\\sqrt2, 3-\\sqrt2"),
        ("x = \\pm 3", "\\{-3, 3\\}"),
        ("x=1, y=2", "(1,2)"),
        ("x=1, y=2", "y=2, x=1"),
        ("(1,2),(3,4)", "\\{(3,4),(1,2)\\}"),
        ("(1,000, 2,000)", "(1000, 2000)"),
        ("\\langle 1, 2\\rangle", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        ("x<3", "(-\\infty,3)"),
        ("1 < x \\le 5", "x \\in (1,5]"),
        ("x>1 \\text{ and } x<5", "(1,5)"),
        ("x<1 \\text{ or } x>5", "(5,\\infty)\\cup(-\\infty,1)"),
        ("\\mathbb{R}\\setminus\\{2\\}", "x \\ne 2"),
        ("\\{x \\mid x>3\\}", "(3,\\infty)"),
        ("3 > x", "x < 3"),
        ("2x+2y \\le 8", "4 \\ge x+y"),
        ("y = 2x+3", "2x-y+3=0"),
        ("y=\\frac{1}{x}", "xy=1"),
        ("f(x) = x^2", "y = x^2"),
        # bases, ratios, times, dates, words, choices
        ("1011_2", "11"),
        ("23 \\text{ base } 7", "23_7"),
        ("3:4", "6:8"),
        ("2:3", "\\frac23"),
        ("8:34 \\text{ p.m.}", "20:34"),
        ("March 5, 2020", "2020-03-05"),
        ("twenty-one", "21"),
        ("5 million", "5,000,000"),
        ("a dozen", "12"),
        ("\\textbf{(C)}\\ 12", "C"),
        ("There are no solutions", "\\emptyset"),
        # units
        ("100 cm", "1 m"),
        ("2 \\text{ hours}", "120 minutes"),
        ("25\\%", "\\frac14"),
        ("90^\\circ", "\\frac{\\pi}{2}"),
        ("63^\\circ 45' 0''", "63^{\\circ} 45^{\\prime}"),
        ("2 hours 30 minutes", "2.5 hours"),
        ("5 ft 6 in", "66 inches"),
        ("7 sec", "7 s"),
        ("9.8 \\text{ m/s}^2", "9.8 \\frac{\\text{m}}{\\text{s}^2}"),
        ("\\frac{8h}{5}", "\\frac{8}{5} h"),
        # other alphabets, spaces, layouts
        ("50\\,413.5", "50413.5"),
        ("1.23 × 10⁻⁴", "1.23e-4"),
        ("3 x 10^8", "3e8"),
        ("3 to 5", "6:10"),
        ("（1，2）", "(1,2)"),
        ("\\left. \\frac{1}{2} \\right.", "1/2"),
        ("(10001)_2", "10001_{(2)}"),
        ("312 \\text{ (base 5)}", "312_5"),
        ("\\text{12 apples}", "12"),
        ("12 \\quad \\blacksquare", "12"),
        ("-\\boxed{12}", "-12"),
        ("the solution is $[x=2t, y=t]$.", "(2t, t)"),
        ("2^n \\text{ for all } n", "2^n"),
        # unions, holes, absolute values
        ("(0,1) \\text{ or } (2,\\infty)", "(0,1)\\cup(2,\\infty)"),
        ("(0, 1) U (2, oo)", "x \\in (0,1) \\text{ or } x \\in (2,\\infty)"),
        ("0<x<1 \\cup x>2", "(0,1)\\cup(2,\\infty)"),
        ("x \\ge 0, x \\ne 1", "[0,1)\\cup(1,\\infty)"),
        ("x \\ne 0 \\text{ and } x \\ne 1", "x \\ne 0, 1"),
        ("|x-3| \\le 1", "[2,4]"),
        ("|1-2x| > 3", "x<-1 \\text{ or } x>2"),
        ("p \\leqq 0", "(-\\infty,0]"),
        ("[-2, 5]", "-2 \\le f(x) \\le 5"),
        # families, cases, functions, vectors
        ("\\{2k\\pi \\mid k \\in \\mathbb{Z}\\}", "2n\\pi, n \\in \\mathbb{Z}"),
        (
            "\\begin{cases} -x & \\text{if } x<0 \\\\ x & \\text{if } x \\ge 0 \\end{cases}",
            "\\begin{cases} x, & x \\geq 0 \\\\ -x, & 0>x \\end{cases}",
        ),
        ("\\begin{cases} x=1 \\\\ y=2 \\end{cases}", "x=1, y=2"),
        ("f(t)=2t", "f(x)=2x"),
        ("P(3, 4)", "(3,4)"),
        ("E[X] = 3", "3"),
        ("|\\vec{a}| = 5", "5"),
        ("\\int_0^1 2x\\,dx = 1", "1"),
        ("3\\mathbf{i} - \\mathbf{j}", "\\begin{pmatrix}3\\\\-1\\end{pmatrix}"),
        ("46.666666666666664", "140/3"),
        ("2,50", "2.50"),
        ("100^\\circ", "100^\\circ C"),
        ("2\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}+x", "x-4"),
        # a bound letter is another than the same letter in the bounds
        ("\\sum_{n=1}^{n} n", "\\sum_{k=1}^{n} k"),
    ],
)
def test_same(prediction: str, reference: str) -> None:
    assert equivalent(prediction, reference)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("", ""),
        ("", "5"),
        ("17", "18"),
        ("98730", "98721"),
        ("75", "7500"),
        ("-8", "8"),
        ("0.3334", "\\frac13"),
        ("0.3", "\\frac13"),
        ("0.333", "0.3333"),
        ("1331 and 1728", "1728"),
        ("1, 2", "1, 2, 3"),
        ("(1, 2)", "(2, 1)"),
        ("[0, 1)", "(0, 1)"),
        ("1/2^{99}", "1/2^{98}"),
        ("\\frac{1}{2006!}", "\\frac{1}{2004!}"),
        ("4220_5", "4210_5"),
        ("5 \\text{ m}", "5 \\text{ cm}"),
        ("nan", "1"),
        ("\\frac{1}{0}", "0"),
        ("1 2", "12"),
        ("\\sqrt{x^2}", "x"),
        ("2^{100}", "1267650600228229401496703205377"),
        ("10^{40}\\sqrt{2}", "10^{40}\\sqrt{2}+1"),
        ("r/R", "R/r"),
        ("(a)(b+c)", "b+c"),
        ("kx+1", "cx+1"),
        ("x+C", "x"),
        ("\\log_2 3", "\\log_3 2"),
        ("1-2i", "1+2i"),
        ("\\frac{dy}{dx}", "\\frac{y}{x}"),
        ("\\{1,2\\}", "(1,2)"),
        ("[1,2)", "1,2"),
        ("1,1,2", "1,2"),
        ("(0,1)\\cup(1,2)", "(0,2)"),
        ("x \\le 3", "(-\\infty,3)"),
        ("x=5", "y=5"),
        ("x^2=0", "0"),
        ("y=0", "xy=0"),
        ("-2x > 6", "x > -3"),
        ("101_2", "101_3"),
        ("3:4", "4:3"),
        ("1:30 pm", "1:30 am"),
        ("2 hours", "2 minutes"),
        ("36 cm^2", "36 cm^3"),
        ("3 more than x", "3"),
        ("2.5\\%", "25\\%"),
        ("30^\\circ", "\\frac{\\pi}{3}"),
        ("x < i", "x < 1"),
        ("y \\neq \\pm x", "y \\neq x"),
        ("\\sum_{n=1}^{n} n", "n"),
        ("x(x+1)", "1"),
        ("n-m+3", "3"),
        ("2\\det(A)", "x"),
        ('exec("print(1)")', "1"),
        ("\\frac{2}{3} R^2", "\\frac{2}{3} R^2 h"),
        ("2 + 3 m", "5"),
        ("5 sec x", "5"),
        ("333", "\\frac{1000}{3}"),
        ("1 < x < 2", "1, 2"),
        ("2 or 3", "(2,3)"),
        ("(1,2), (3,4)", "(1,2)\\cup(3,5)"),
        ("x \\ge 0, x \\ne 1", "[0,\\infty)"),
        ("|x| < 2", "(-2,2]"),
        ("|x| < -1", "(-1,1)"),
        ("3 feet and 4 feet", "7 feet"),
        ("2 hours 20 minutes", "2.5 hours"),
        ("f(x)=x+a", "f(a)=a+a"),
        ("2\\mathbf{i}-\\mathbf{j}", "(2,1)"),
        ("-\\boxed{12}", "12"),
        ("2.5", "2,5"),  # a comma between two numbers of a reference is no decimal comma
        ("40, 200", "40.20"),
        ("it cannot be 7", "7"),
        ("7 is wrong", "7"),
        ("at most 8 apples", "8"),
        ("all multiples of 7", "7"),
        ("There is no such number as 7", "7"),
        ("100^\\circ F", "100^\\circ C"),
        ("3 out of 8", "\\frac{8}{3}"),
        (
            "\\begin{cases} x & x>0 \\\\ 0 & x \\le 0 \\end{cases}",
            "\\begin{cases} x & x \\ge 0 \\\\ 0 & x<0 \\end{cases}",
        ),
    ],
)
def test_other(prediction: str, reference: str) -> None:
    assert not equivalent(prediction, reference)


@pytest.mark.parametrize(
    "hostile",
    [
        "9^9^9^9",
        "9^{9^{9^9}}",
        "9^{1+9^{9}}",
        "((10^{999})^{999})^{999}",
        "10.0**10.0**10.0",
        "(13/10)**6472416997",
        "(9^9)!",
        "100000!",
        "3!!!!",
        "\\frac{" * 500,
        "(" * 5_000 + "1" + ")" * 5_000,
        "-" * 100_000 + "1",
        "1" * 200_000,
        "1e999999999",
        "x\\frac",
        "\\sqrt",
        "{{{{",
        "1k€" * 1_300,
        "one and a half " * 260,
        "½" * 4_000,
        "**Answer:** '" * 330,
        "__import__('os').system('touch PAYLOAD')",
        "sympify(\"__import__('os').system('touch PAYLOAD')\")",
    ],
)
def test_hostile_answers_cost_little_and_run_nothing(
    hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    equivalent("2\\pi", "\\pi")  # load math-verify
    for other in ("42", "x+1", "9^9^9^8", "\\frac{1}{3}"):
        began = time.monotonic()
        assert not equivalent(hostile, other)
        assert not equivalent(other, hostile)
        assert time.monotonic() - began < 2
    assert not list(tmp_path.iterdir())


def test_it_can_be_asked_from_another_thread() -> None:
    answers: list[bool] = []
    thread = Thread(target=lambda: answers.append(equivalent("\\sqrt{50}", "5\\sqrt{2}")))
    thread.start()
    thread.join()
    assert answers == [True]


def test_numbers_never_load_math_verify() -> None:
    code = (
        "import sys; from scalequest.grading import Grader, equivalent, extract, majority\n"
        "assert equivalent('57', '57.0') and not equivalent('$1,000', '999')\n"
        "assert majority(['3', '3.0', '\\\\frac{9}{3}', '4', None]) == ('3', 0.6)\n"
        "assert extract('The answer is \\\\boxed{57}.').answer == '57'\n"
        "assert not {'math_verify', 'sympy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", Fraction(1234)),
        ("-.5", Fraction(-1, 2)),
        ("-2^2", Fraction(-4)),
        ("2^{-3}", Fraction(1, 8)),
        ("1.5e-3", Fraction(3, 2000)),
        ("-3\\frac{1}{2}", Fraction(-7, 2)),
        ("2 \\cdot 3 + 4/8", Fraction(13, 2)),
        ("5!", Fraction(120)),
        ("12,34", None),
        ("x", None),
        ("3 4", None),
        ("1+", None),
        ("2^{0.5}", None),
        ("2^{99999999}", None),
    ],
)
def test_exact_value(text: str, number: Fraction | None) -> None:
    assert value(text) == number


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        (["1", "2", "2.0"], ("2", 2 / 3)),
        (["1", "2"], ("1", 0.5)),
        (["\\frac{1}{2}", "0.5", None, ""], ("\\frac{1}{2}", 0.5)),
        (["2\\sqrt{3}", "\\sqrt{12}", "1"], ("2\\sqrt{3}", 2 / 3)),
        ([None, None], (None, 0.0)),
        ([], (None, 0.0)),
    ],
)
def test_majority(answers: list[str | None], result: tuple[str | None, float]) -> None:
    assert majority(answers) == result


@pytest.mark.data
def test_labelled_pairs(data_dir: Path) -> None:
    """The bar: all pairs over which reasonable graders do not differ, the others, the hostile ones, time."""
    payload = Path("/tmp/grader_payload")
    assert not payload.exists(), "left by something else"
    rows = [json.loads(line) for line in (data_dir / "grader_cases_dev.jsonl").read_text().splitlines()]
    with Grader() as grader:
        grader.start()
        verdicts = [grader.grade(row["prediction"], row["reference"]) for row in rows]
        assert not grader.timeouts
    wrong = {"policy": 0, "plain": 0, "hostile": 0}
    total = dict(wrong)
    for verdict, row in zip(verdicts, rows, strict=True):
        kind = next((kind for kind in ("policy", "hostile") if f"{kind}:" in row["note"]), "plain")
        total[kind] += 1
        wrong[kind] += verdict.correct != row["label"]
        assert verdict.seconds < 2 or kind != "hostile"
    false_positives = sum(
        v.correct and not row["label"]
        for v, row in zip(verdicts, rows, strict=True)
        if "policy:" not in row["note"]
    )
    assert wrong["hostile"] == 0
    assert wrong["plain"] / (total["plain"] + total["hostile"]) <= 0.01
    assert wrong["policy"] / total["policy"] <= 0.15
    assert false_positives <= 2
    assert not payload.exists()


@pytest.mark.data
def test_no_development_row_is_in_the_source(root: Path, data_dir: Path) -> None:
    """Answers of six characters and more: nowhere in the grader, and no string of any module is one."""
    rows = [json.loads(line) for line in (data_dir / "grader_cases_dev.jsonl").read_text().splitlines()]
    answers = {row[side].strip() for row in rows for side in ("prediction", "reference")}
    answers = {answer for answer in answers if len(answer) >= 6}
    grader = "\n".join(path.read_text() for path in (root / "src/scalequest/grading").rglob("*.py"))
    assert not [answer for answer in answers if answer in grader]
    trees = [ast.parse(path.read_text()) for path in (root / "src").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert not answers & {node.value for node in nodes if isinstance(node.value, str)}


@pytest.mark.data
def test_every_reference_solution_of_gsm8k_is_right(root: Path, data_dir: Path) -> None:
    problems = load_benchmark(root / "eval/benchmarks/gsm8k.yaml").problems
    with gzip.open(data_dir / "gsm8k_test.jsonl.gz", "rt", encoding="utf-8") as file:
        solutions = [json.loads(line)["answer"] for line in file]
    assert len(solutions) == len(problems) == 1319
    answers = [extract(solution).answer or "" for solution in solutions]
    assert all(equivalent(a, problem.answer) for a, problem in zip(answers, problems, strict=True))


@pytest.mark.data
def test_every_reference_solution_of_math_is_right(root: Path, data_dir: Path) -> None:
    problems = load_benchmark(root / "eval/benchmarks/math.yaml").problems
    with gzip.open(data_dir / "math_test.jsonl.gz", "rt", encoding="utf-8") as file:
        answers = [extract(json.loads(line)["solution"], boxes="last").answer or "" for line in file]
    assert len(answers) == 5000
    assert all(equivalent(a, problem.answer) for a, problem in zip(answers, problems, strict=True))


@pytest.mark.data
def test_recorded_outputs(data_dir: Path) -> None:
    """Whole outputs of a dozen models: extraction and equality together."""
    with gzip.open(data_dir / "model_outputs_dev.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    answers = [extract(row["output"]).answer for row in rows]
    verdicts = [
        a is not None and equivalent(a, row["reference"]) for a, row in zip(answers, rows, strict=True)
    ]
    assert sum(v == row["verdict"] for v, row in zip(verdicts, rows, strict=True)) / len(rows) >= 0.997
