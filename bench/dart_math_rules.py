r"""DART-Math's rules for reading and comparing answers, by which the paper's columns were graded.

    python bench/grading.py --outputs                               # of $SCALEQUEST_DATA, beside our grader
    python bench/grading.py --outputs runs/paper/evaluate_table1/Mistral-7B-ScaleQuest
    python bench/grading.py --reports --peer dart-math=bench/dart_math_rules.py:equal

This is an independent implementation of the rules of dart_math/eval.py and dart_math/olympiadbench.py
(commit 219b324, MIT licence), because no package index has that package; nothing in src/ uses it. It follows
the rules even if they are questionable: 75 equals 0.75, "no" anywhere makes the answer false, and without a
marker, whatever stands between the last two dollar signs is the answer, also between currencies. There are
three exceptions:

- The original evaluates text written by a model as Python code; here, Python syntax is read as a tree of
  numbers, names and operators, and everything else fails to parse, as most such text does there.
- The original parses LaTeX with SymPy and antlr4 4.11. If that version is missing, the parser of math-verify
  (latex2sympy2_extended), which descends from it, is used. To use the original one, run
  `pip install --target peer sympy==1.12.1 antlr4-python3-runtime==4.11.1` and put peer first in PYTHONPATH.
- The official tolerance of an OlympiadBench problem is used only if its row has it (`tolerance`).

A row has `output`, `reference`, and optionally `problem`, `benchmark`, `truncated` and `tolerance`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any

FUNCTIONS = "sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|coth|sech|csch|log|ln|exp"
GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|upsilon|"
    "phi|chi|psi|omega"
)
MARKS = ":./,#?$\"'ки"  # stripped at both ends; the two letters separate steps in Math-Shepherd's outputs
PAIRS = ((r"\(", r"\)"), (r"\[", r"\]"), (r"\{", r"\}"), ("(", ")"), ("[", "]"), ("{", "}"))
WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
)
NUMBERS = (WORDS + "seventeen eighteen nineteen twenty").split()
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
REMOVED = (
    *("\n", "\t", "approximately", "'", '"', r"\$", "$", "￥", "£", "€", "{,}", r"\!", r"\,", r"\:", r"\;"),
    *(r"\quad", r"\qquad", r"\space", r"\thinspace", r"\medspace", r"\thickspace", "~,", "\\ "),
    *(r"\\%", r"\%", "%", r"\left", r"\right", r"^{\circ}", r"^\circ"),
)
REPLACED = (
    *(("∪", r"\cup"), ("π", r"\pi"), ("∞", r"\infty"), ("∈", r"\in"), ("∩", r"\cap"), ("−", "-")),
    *((r"\item", ","), ("and", ","), (";", ","), ("infinity", r"\infty"), (r"+\infty", r"\infty")),
    *(("tfrac", "frac"), ("dfrac", "frac"), (r"\approx", "="), (r"\times", "*"), (r"\cdot", "*")),
    *(("{.", "{0."), (" .", " 0."), (":", "/")),
)
_COMMANDS = """
    textbf textit textsl texttt textsc textsf textrm mathrm mathbf mathit mathsf mathtt mathbb mathcal
    mathscr mathfrak bm em emph underline overline tiny scriptsize footnotesize small normalsize large Large
    LARGE huge Huge newline par noindent indent footnote cite ref label textsuperscript textsubscript text
    mbox
"""
UNWRAPPED = (*("\\" + name for name in _COMMANDS.split()), r"\renewcommand{\arraystretch}")
ENVIRONMENTS = ("align", "align*", "center", "flushleft", "flushright", "itemize", "enumerate", "description")
_UNITS = r"""
    hour minute min sec second day week month year meter mile kg mg g t ton nm pm um μm m cm mm dm km
    kilometer inch feet piece bit hz Hz m/s km/s m/(min^2) billion eV V C s a\.?m\.?
    (?<!\\)p\.?m\.?
"""
UNITS = _UNITS.split()
DATES, TIMES = ("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d"), ("%H:%M:%S", "%H:%M")
MOMENTS = (*DATES, *(f"{d} {t}" for t in TIMES for d in DATES), *TIMES, "%I:%M:%S %p", "%I:%M %p")


def grade(row: Mapping[str, Any]) -> tuple[str, bool]:
    """Extract the answer of a row and compare it; truncated and unreadable outputs are wrong."""
    answer, problem = extract(row["output"]), str(row.get("problem") or "")
    if row.get("truncated"):
        return answer, False
    plain = normalise(answer)
    if "olympiad" in str(row.get("benchmark") or ""):
        return answer, equal_olympiad(plain, row["reference"], float(row.get("tolerance") or 1e-8))
    wants_all = "ind the" in problem or ("all" in problem and "separate" in problem)
    return answer, equal(plain, row["reference"], sets=wants_all)


# ----------------------------------------------------------------------------------------------- extraction


def extract(output: str) -> str:
    """Find the answer: after the last marker, in the last box, after a phrase, or the last formula."""
    text = strip_end(output)
    for marker in ("herefore", "####", "# Answer"):
        if marker in text:
            text = text.rpartition(marker)[2].strip()
    if "oxed{" in text:
        return boxed(text)
    found = _after_a_phrase(text)
    if found is not None:
        return found
    formulas = re.findall(r"(?:\$|\\\(|\\\[)([^$]+)(?:\$|\\\(|\\\[)", output)  # as upstream: no closing \)
    numbers = re.findall(r"-?\d*\.?\d+", output.replace(",", ""))
    return next((found[-1] for found in (formulas, numbers) if found), "")


def _after_a_phrase(text: str) -> str | None:
    for phrase in ("is the ans", "is our ans"):
        if phrase in text:
            before = text.split(phrase)[-2].strip()
            return _without_dollars(re.split(r"[,.!]", before)[-1].strip())
    for phrase in ("answer is", "answer:", "answer :"):
        if phrase in text:
            return _without_dollars(text.rpartition(phrase)[2].strip())
    if "statement" in text:
        said = truth_of(text.rpartition("is ")[2])
        return _without_dollars(text) if said is None else said
    return None


def _without_dollars(text: str) -> str:
    return text[1:-1] if text.startswith("$") and text.endswith("$") else text


def boxed(text: str) -> str:
    """Return the content of the last box up to its closing brace, or the rest if there is none."""
    rest = text.rpartition("oxed")[2]
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip()
    depth = 0
    for match in re.finditer(r"\\.|[{}]", rest, re.S):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return rest[1 : match.start()]
    return rest[1:]


# -------------------------------------------------------------------------------------------- normalisation


def strip_end(text: str) -> str:
    """Remove marks and opening brackets at the end."""
    return text.strip().rstrip(MARKS + "([{\\" + " \n\t\r")


def strip_ends(text: str) -> str:
    """Remove marks at both ends, closing brackets and doubled backslashes at the beginning."""
    return strip_end(re.sub(rf"^(?:\\\\|[\s!)\]}}{re.escape(MARKS)}])+", "", text.strip()))


def truth_of(text: str) -> str | None:
    """Return whether it says true or false anywhere, even inside a word."""
    lower = text.lower().replace("noindent", "")
    if "yes" in lower or "true" in lower:
        return "True"
    return "False" if "no" in lower or "false" in lower else None


def normalise(answer: str) -> str:
    """Write an answer in the common form of the comparison."""
    text = strip_ends(answer.replace("\n", ""))
    if (truth := truth_of(text)) is not None:
        return truth
    if " " not in text:
        for day in DAYS:
            if text.lower().startswith(day[:3].lower()):
                return day
    text = _plain(text)
    if not text:
        return ""
    text = "0" + text if text[0] == "." else text
    parts = elements(text) if _looks_like_a_set(text) else [text]
    text = ",".join(map(_plain_part, parts))
    text = text if "," in text else without_brackets(text)
    text = str(NUMBERS.index(text)) if text in NUMBERS[1:] else text
    text = strip_ends(re.sub(r"\\mid([a-z])", r"\\mid \1", text))
    for sign in "<>":
        if text.count(sign) > 1 and not any(word in text.lower() for word in (",", "and", "or")):
            text = text.replace(sign, ",")
    return text


def _plain(text: str) -> str:
    """Remove what only decorates: currencies, spaces, fonts, environments, units."""
    for removed in REMOVED:
        text = text.replace(removed, "")
    for old, new in REPLACED:
        text = text.replace(old, new)
    text = text if r"\infty" in text else text.replace("inf", r"\infty")
    text = text.replace(" ", "")
    for command in UNWRAPPED:
        text = _unwrap(text, command)
    for name in ENVIRONMENTS:
        text = text.replace(f"\\begin{{{name}}}", "").replace(f"\\end{{{name}}}", "")
    text = re.sub(r"^(\d+)\^?\\?circ$", r"\1", text.replace("rad", ""))
    text = re.sub(r"(\d+)\^?\\?circ", r"{\1*\\frac{\\pi}{180}}", text)
    text = re.sub(rf"(?<!\\)(pi\b|{FUNCTIONS})", r"\\\1", text)
    text = re.sub(rf"\\?({FUNCTIONS})\^(\d+)", r"\\\1^{\2}", text)
    text = re.sub(rf"\\?({FUNCTIONS})(?!\^)", r"\\\1^{1}", text)
    text = re.sub(r"\{[a-z]?matrix\}", "{array}", text)
    text = re.sub(r"\\begin\{array\}\{[lcr]*\}", r"\\begin{array}{}", text)
    text = text if r"\begin{array}" in text else text.replace(r"\\", "")
    text = text.replace("j", "i") if "i" not in text else text
    text = re.sub(r"(\d+)\.0+(?=\D|$)", r"\1", text)
    for unit in UNITS:
        text = re.sub(rf"([-\d.*^{{}}]+){unit}e?s?$", r"\1", text)
    return text


def _plain_part(text: str) -> str:
    """Write fractions and roots in full, remove what precedes an equals sign, and resolve plus or minus."""
    text = re.sub(r"\\?sqrt[({\[](\w+)[)}\]]", r"\\sqrt{\1}", text)
    text = re.sub(r"\\?sqrt(\d+)", r"\\sqrt{\1}", text)
    text = "\\" + text if text.startswith("frac") else text
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\b\d+|sqrt\(.*?\))/(\d+|sqrt\(.*?\)\b)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"^[a-z]\\in", "", text)
    text = text if "," in text else without_brackets(text)
    if r"\begin{array}" not in text:
        sides = text.split("=")
        text = sides[-1] if len(sides) > 2 or (len(sides) == 2 and _only_names(sides[0])) else text
    pattern = r"([\w.\\{}+\-*^]+?)\\(?:pm|mp)([\w.\\{}+\-*^]+)"
    bare = without_brackets(text)
    text = re.sub(pattern, r"\1-\2,\1+\2", bare) if re.search(pattern, bare) else text
    return re.sub(r"^0+([1-9])", r"\1", text)


def _only_names(left: str) -> bool:
    """Return whether a left side is a name, perhaps of a function and with its argument, or has no letter."""
    name = rf"([a-z]|[A-Z]{{2}}|\\?({GREEK}|{FUNCTIONS}))"
    named = re.match(rf"{name}\^?{{?-?('|\\prime|\d)*}}?(\(-?([\d.]+|[a-z])?\))?$", left)
    return named is not None or not re.search("[a-zA-Z]", left)


def _unwrap(text: str, command: str) -> str:
    """Remove the first such command, and the braces of its argument or around it."""
    before, found, after = text.partition(command)
    if not found:
        return text
    if after.startswith("{"):
        after = _without_pair(after, ("{", "}"))
    elif before.endswith("{") and "}" in after:
        before, after = before[:-1], after.replace("}", "", 1)
    return before + after


def _pair(text: str, pair: tuple[str, str]) -> tuple[int, int]:
    """Return where the first such bracket opens and closes, or -1."""
    left, right = pair
    begin, depth = text.find(left), 0
    for place in range(begin, len(text)) if begin >= 0 else ():
        depth += text.startswith(left, place) - text.startswith(right, place)
        if depth == 0:
            return begin, place
    return begin, -1


def _without_pair(text: str, pair: tuple[str, str]) -> str:
    begin, end = _pair(text, pair)
    size = len(pair[0])
    return text if min(begin, end) < 0 else text[:begin] + text[begin + size : end] + text[end + size :]


def without_brackets(text: str) -> str:
    """Remove brackets that enclose everything, as long as there are any."""
    while True:
        for pair in PAIRS:
            size = len(pair[0])
            if len(text) >= 2 * size and _pair(text, pair) == (0, len(text) - size):
                text = text[size:-size]
                break
        else:
            return text


def _looks_like_a_set(text: str) -> bool:
    braces = any(text.startswith(left) and text.endswith(right) for left, right in (PAIRS[2], PAIRS[5]))
    return braces or re.search(r"[^a-z]or(x|[^a-z])", text) is not None


def elements(text: str) -> list[str]:
    """Return the distinct elements of a list, sorted as text."""
    kept: list[str] = []
    for part in without_brackets(text).replace("or", ",").split(","):
        if not any(_attempt(equal, part.strip(), other) for other in kept):
            kept.append(part.strip())
    return sorted(kept)


# ------------------------------------------------------------------------------------------------- equality


def equal(prediction: str, reference: str, *, sets: bool = False) -> bool:
    """Compare two answers: as dates, as text, as sets if asked for, as numbers, and as expressions."""
    moments = [_moment(text) for text in (prediction, reference)]
    if moments[0] and moments[0] == moments[1]:
        return True
    texts = (normalise(prediction), normalise(reference))
    if not texts[0] or not texts[0].isascii():
        return False
    if texts[0].lower() == texts[1].lower():
        return True
    if sets:
        return _equal_sets(elements(texts[0]), elements(texts[1]))
    numbers = [_attempt(float, text) for text in texts]
    if None not in numbers and _close(*numbers):
        return True
    return _equal_expressions(*texts)


def _equal_sets(found: list[str], wanted: list[str]) -> bool:
    if len(found) != len(wanted):
        return False
    for one in found:
        match = next((other for other in wanted if _attempt(equal, one, other)), None)
        if match is None:
            return False
        wanted.remove(match)
    return True


def _equal_expressions(prediction: str, reference: str) -> bool:
    """Compare what both are in each form, then plain text of one with LaTeX of the other."""
    plain = [_attempt(python_value, text) for text in (prediction, reference)]
    if None not in plain and plain[0] == plain[1]:
        return True
    for parser in (interval, matrix):
        pair = [_attempt(parser, text) for text in (prediction, reference)]
        if _equal_values(*pair):
            return True
    latex = [_attempt(expression, text) for text in (prediction, reference)]
    return any(
        _equal_values(one, other)
        for one, other in ((latex[0], latex[1]), (latex[0], plain[1]), (plain[0], latex[1]))
    )


def _equal_values(first: Any, second: Any) -> bool:
    import sympy

    if first is None or second is None:
        return False
    if _attempt(lambda: bool(first == second)):
        return True

    def vanishes(one: Any, other: Any) -> bool:
        difference = sympy.simplify(one - other)
        return all(x == 0 for x in difference) if hasattr(difference, "__iter__") else not difference

    if _attempt(lambda: vanishes(first, second) and vanishes(second, first)):
        return True
    return bool(_attempt(lambda: _close(*(float(sympy.N(value)) for value in (first, second)))))


def _close(prediction: float, reference: float) -> bool:
    """Compare numbers; either may be in percent if both forms lie between 0 and 100."""
    if math.isclose(prediction, reference, rel_tol=1e-9, abs_tol=1e-8):
        return True

    def share(value: float) -> bool:
        return 0 < value < 1 or 1 < value < 100

    forms = (
        [value for value in (reference / 100, reference * 100) if share(value)] if share(prediction) else []
    )
    return any(math.isclose(form, prediction, rel_tol=1e-3, abs_tol=1e-8) for form in forms)


def _moment(text: str) -> datetime | None:
    for form in MOMENTS if re.search(r"[:/-]", text) else ():
        if (found := _attempt(datetime.strptime, text, form)) is not None:
            return found  # type: ignore[no-any-return]
    return None


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it; None if it raises anything but the end of time or memory."""
    try:
        return function(*arguments)
    except (MemoryError, TimeoutError):
        raise
    except Exception:  # a parser may raise any error on arbitrary text
        return None


# -------------------------------------------------------------------------------------------------- parsers


@cache
def latex_parser() -> Callable[[str], Any]:
    """Return SymPy's parser if its antlr4 4.11 is there, and otherwise math-verify's."""
    from sympy.parsing.latex import parse_latex

    try:
        parse_latex("x")
    except ImportError:
        from latex2sympy2_extended import latex2sympy

        return latex2sympy  # type: ignore[no-any-return]
    return parse_latex  # type: ignore[no-any-return]


def expression(text: str) -> Any:
    """Parse LaTeX; a list fails, of which SymPy's parser reads only the first element."""
    import sympy

    value = latex_parser()(text)
    if "," in text and (
        isinstance(value, (sympy.Set, sympy.Tuple))
        or value == _attempt(latex_parser(), text.partition(",")[0])
    ):
        raise ValueError(f"a list: {text!r}")
    return value


def interval(text: str) -> Any:
    """Parse an interval, a set of one element, or their union or intersection."""
    import sympy

    text = text.replace(" ", "")
    for sign, combine in ((r"\cup", sympy.Union), (r"\cap", sympy.Intersection)):
        if sign in text:
            return combine(*map(interval, text.split(sign)))
    for left, right in (PAIRS[2], PAIRS[5]):
        if text.startswith(left) and text.endswith(right):
            return sympy.FiniteSet(sympy.simplify(expression(text[len(left) : -len(right)])))
    shape = re.fullmatch(r"\\?([(\[])(.*?)\\?([)\]])", text)
    if shape is None:
        raise ValueError(f"no interval: {text!r}")
    low, high = (sympy.simplify(expression(end)) for end in shape[2].split(","))
    if low.is_comparable and high.is_comparable and low >= high:
        raise ValueError(f"an empty interval: {text!r}")
    return sympy.Interval(low, high, shape[1] == "(", shape[3] == ")")


def matrix(text: str) -> Any:
    """Parse a matrix, or a list as a row; a column becomes a row."""
    import sympy

    found = re.search(r"\\begin\{[a-zA-Z]?(?:matrix|array)\}(.*)\\end\{[a-zA-Z]?(?:matrix|array)\}", text)
    if found:
        rows = [row.split("&") for row in re.split(r"\\+(?!frac|sqrt)", found[1])]
    elif "," in text:
        rows = [elements(text) if _looks_like_a_set(text) else without_brackets(text).split(",")]
    else:
        raise ValueError(f"no matrix: {text!r}")
    made = sympy.Matrix([[expression(cell) for cell in row] for row in rows])
    return made.T if made.shape[1] == 1 else made


def python_value(text: str) -> Any:
    """Parse Python's syntax for numbers, names, tuples, + - * / ** and the usual functions; run nothing.

    Raises:
        ValueError: anything else is in the text.
    """
    return _python_node(ast.parse(text.strip(), mode="eval").body)


def _python_node(node: ast.AST) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() | float() as value):
            return sympy.Float(str(value)) if isinstance(value, float) else sympy.Integer(value)
        case ast.Name(id=name):
            return {"pi": sympy.pi, "E": sympy.E, "I": sympy.I}.get(name, sympy.Symbol(name))
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return sympy.Tuple(*map(_python_node, parts))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
            return -_python_node(inner) if isinstance(sign, ast.USub) else _python_node(inner)
        case ast.BinOp(left=left, op=op, right=right):
            return _python_operation(op, _python_node(left), _python_node(right))
        case ast.Call(func=ast.Name(id=name), args=[inner]) if name in ("sqrt", *FUNCTIONS.split("|")):
            return getattr(sympy, name)(_python_node(inner))
    raise ValueError(f"not arithmetic: {ast.dump(node)[:60]}")


def _python_operation(op: ast.operator, left: Any, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            return left**right
    raise ValueError(f"not arithmetic: {type(op).__name__}")


# -------------------------------------------------------------------------------- OlympiadBench's own judge


def equal_olympiad(prediction: str, reference: str, tolerance: float) -> bool:
    """Compare as OlympiadBench's judge: lists pair by pair, and numbers within a tolerance."""
    first, second = (_olympiad_text(text) for text in (reference, prediction))
    if first == second:
        return True
    wanted, found = (_olympiad_parts(re.sub("[\u4e00-\u9fff]+", "", text)) for text in (first, second))
    if len(wanted) != len(found):
        return False
    for one in wanted:
        match = next((other for other in found if _olympiad_equal(one, other, tolerance)), None)
        if match is None:
            return False
        found.remove(match)
    return True


def _olympiad_text(text: str) -> str:
    boxes = re.findall(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}", text)
    formulas = boxes or re.findall(r"\$(.*?)\$", text.strip().rpartition("\n")[2])
    text = "".join(f"{one}," for one in formulas) or text
    text = text.split(r"\in ")[1] if r"\in " in text else text
    for old, new in (
        *((r"\left", ""), (r"\right", ""), ("∶", ":"), ("，", ","), ("$", ""), (r"\approx", "=")),
        *(
            (r"\simeq", "="),
            (r"\sim", "="),
            (r"^\prime", "'"),
            (r"^{\prime}", "'"),
            (r"^\circ", ""),
            ("%", ""),
        ),
    ):
        text = text.replace(old, new)
    return re.sub(r"\\(?:mathrm|mathbf)\{~?([^}]*)\}", r"\1", text.strip("\n$,.:;^_=+`!@#%&*~，。"))


def _olympiad_parts(text: str) -> list[str]:
    """Split at commas outside brackets, and plus or minus into both."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    signs = ((part, sign) for part in parts if part for sign in ("+-" if r"\pm" in part else "+"))
    return [part.strip().replace(r"\pm", sign) for part, sign in signs]


def _olympiad_equal(reference: str, prediction: str, tolerance: float) -> bool:
    if reference == prediction and reference:
        return True
    if all(text.startswith(("(", "[")) and text.endswith((")", "]")) for text in (reference, prediction)):
        ends = _attempt(_olympiad_intervals, reference, prediction, tolerance)
        if ends or ends is None:
            return bool(ends)
    numbers = [_attempt(float, text) for text in (reference, prediction)]
    if None not in numbers:
        forms = (numbers[0] / 100, numbers[0], numbers[0] * 100)
        if any(abs(form - numbers[1]) <= 1.01 * tolerance for form in forms):
            return True
    both_equations = "=" in reference and "=" in prediction
    judge = _olympiad_equations if both_equations else _olympiad_expressions
    return bool(_attempt(judge, reference, prediction, tolerance))


def _olympiad_intervals(reference: str, prediction: str, tolerance: float) -> bool:
    wanted, found = (text.split(r"\cup") for text in (reference, prediction))
    return len(wanted) == len(found) and all(
        (one[0], one[-1]) == (other[0], other[-1])
        and all(
            _olympiad_expressions(a, b, tolerance)
            for a, b in zip(one.strip("[]()").split(","), other.strip("[]()").split(","), strict=False)
        )
        for one, other in zip(wanted, found, strict=True)
    )


def _olympiad_expressions(reference: str, prediction: str, tolerance: float) -> bool:
    import sympy

    texts = (text.split("=")[1] if "=" in text else text for text in (reference, prediction))
    first, second = (sympy.sympify(latex_parser()(text.strip())) for text in texts)
    if first == second:
        return True
    first, second = (value.subs(latex_parser()(r"\pi"), math.pi) for value in (first, second))
    symbols = [value.has(sympy.Symbol) for value in (first, second)]
    if symbols[0] != symbols[1] or not (symbols[0] or all(map(_computable, (first, second)))):
        return False
    if not symbols[0]:
        return bool(abs(first.evalf() - second.evalf()) <= 1.01 * tolerance)
    return bool(abs(sympy.simplify(first - second).evalf()) < 1e-3)


def _computable(value: Any) -> bool:
    """Return whether it is no power, or one of numbers whose exponent is at most 1000."""
    import sympy

    return not isinstance(value, sympy.Pow) or bool(value.is_number and abs(value.exp.evalf()) <= 1000)


def _olympiad_equations(reference: str, prediction: str, tolerance: float) -> bool:
    """Two equations are equal if their differences of sides are in the ratio of an integer to one."""
    import sympy

    def difference(sides: Iterable[str]) -> Any:
        left, right = (latex_parser()(side) for side in sides)
        return sympy.simplify(left - right)

    first, second = (difference(text.split("=")) for text in (reference, prediction))
    ratios = (sympy.simplify(first / second), sympy.simplify(second / first))
    return any(bool(ratio.is_Integer) and ratio != 0 for ratio in ratios)
