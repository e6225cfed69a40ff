r"""Parse formulas, in LaTeX or plain text, into trees by recursive descent; nothing is evaluated as code.

If a spelling has two common readings, the parser chooses the strict or the loose one and notes that it met
such a place: `\ln (x)^2` (the power of the logarithm, or of x), `\sin a/b`, `1/2x`, and `\log` (natural, or
to base 10).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from scalequest.grading.latex.commands import FONTS, OPENING, command, function
from scalequest.grading.latex.tokens import FUNCTIONS, SYMBOLS, SYNONYMS, Foreign, Unreadable, tokens
from scalequest.grading.latex.trees import MINUS_ONE, Node, number

_MAX_DEPTH = 60
_MAX_DIGITS = 1_000

_TIMES = frozenset(("*", r"\cdot", r"\times", r"\ast"))
_OVER = frozenset(("/", r"\div"))


def readings(text: str) -> tuple[Node, ...]:
    """Parse a formula into one tree, or two if the spelling has two common readings.

    Raises:
        Unreadable: the text is not a formula.
    """
    trees = _read(text)
    if isinstance(trees, Unreadable):
        raise trees
    return trees


def is_foreign(text: str) -> bool:
    """Return whether a formula cannot be parsed only because of a command that this grammar does not know."""
    return isinstance(_read(text), Foreign)


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Node, ...] | Unreadable:
    try:
        parser = Parser(text, loose=False)
        strict = parser.whole()
        if not parser.ambiguous:
            return (strict,)
        loose = Parser(text, loose=True).whole()
        return (strict,) if loose == strict else (strict, loose)
    except Unreadable as error:
        return error.with_traceback(None)
    except (IndexError, ZeroDivisionError, RecursionError) as error:
        return Unreadable(type(error).__name__)


class Parser:
    """Recursive descent over tokens; every method returns the tree of what it consumed."""

    def __init__(self, text: str, *, loose: bool) -> None:
        self.tokens, self.at, self.loose = tokens(text), 0, loose
        self.ambiguous = False
        self.bound: list[str] = []
        self.depth = 0
        self.bars = 0  # number of open |...|

    def whole(self) -> Node:
        """Read the whole text."""
        tree = self.chosen()
        if self.at < len(self.tokens):
            raise Unreadable(f"rest {self.peek()!r}")
        return tree

    def chosen(self) -> Node:
        r"""Read a sum, or the two sums of `n \choose k`."""
        above = self.sum()
        if self.peek() != r"\choose":
            return above
        self.take()
        return Node("binom", (above, self.sum()))

    def peek(self, ahead: int = 0) -> str:
        """Return a token without consuming it; "" after the last one."""
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """Consume a token, which must be one of `wanted` if any are given."""
        token = self.peek()
        if not token or (wanted and token not in wanted):
            raise Unreadable(f"expected {' or '.join(wanted)}, got {token!r}")
        self.at += 1
        return token

    def sum(self) -> Node:
        """Read terms separated by signs."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unreadable("too deep")
        terms = [self.product()]
        while (sign := self.peek()) in ("+", "-", r"\pm", r"\mp"):
            self.take()
            term = self.product()
            terms.append(term if sign == "+" else _signed(sign, term))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def product(self) -> Node:
        """Read factors separated by `*`, `/` or nothing."""
        total = self.signed()
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                total = Node("*", (total, self.signed()))
            elif token in _OVER:
                self.take()
                below = self.signed()
                if token == "/" and self.begins_factor() and self.tokens[self.at - 1] not in (")", "}", "]"):
                    self.ambiguous = True  # 1/2x
                    while self.loose and self.begins_factor():
                        below = Node("*", (below, self.power()))
                total = Node("/", (total, below))
            elif self.begins_factor():
                total = self.beside(total)
            else:
                return total

    def beside(self, left: Node) -> Node:
        """Read a factor that follows the previous one without a sign."""
        if self.peek()[0] in "0123456789." and self.tokens[self.at - 1][-1] in "0123456789.":
            raise Unreadable("two numbers side by side")
        return Node("*", (left, self.power()))

    def begins_factor(self) -> bool:
        """Return whether the next token can start a factor."""
        token = self.peek()
        if not token or token in _TIMES or token in _OVER:
            return False
        if token == "|":
            return self.bars == 0
        if token[0].isalnum() or token[0] == ".":
            return True
        if token in ("(", "{", "[", r"\{", r"\lfloor", r"\lceil", r"\begin"):
            return True
        if token[0] != "\\":
            return False
        return token not in (
            r"\pm",
            r"\mp",
            r"\end",
            r"\\",
            "\\}",
            r"\%",
            r"\|",
            r"\rfloor",
            r"\rceil",
            r"\choose",
        )

    def signed(self) -> Node:
        """Read a power with any signs before it."""
        if (sign := self.peek()) in ("+", "-", r"\pm", r"\mp"):
            self.take()
            term = self.signed()
            return term if sign == "+" else _signed(sign, term)
        return self.power()

    def power(self) -> Node:
        r"""Read `a^b`, `a**b`, degrees `a^\circ`, and primes `f^\prime`."""
        base = self.postfix(self.atom())
        if self.peek() not in ("^", "**"):
            return base
        if self.peek(1) == r"\circ" or self.tokens[self.at + 1 : self.at + 4] == ["{", r"\circ", "}"]:
            self.at += 2 if self.peek(1) == r"\circ" else 4
            return self.postfix(Node("*", (base, Node("/", (Node("pi"), number(180))))))
        self.take()
        if self.peek() in ("'", r"\prime") or self.tokens[self.at : self.at + 3] == ["{", r"\prime", "}"]:
            self.at += 1 if self.peek() != "{" else 3
            return Node("sym", value=f"{_name(base)}'")
        exponent = self.exponent()
        if self.peek() == "_" and base.op == "sym" and "_" not in str(base.value):
            base = self.subscripted(str(base.value))
        result = Node("^", (base, exponent))
        return self.postfix(result)

    def exponent(self) -> Node:
        """Read what follows `^`: a group, or a power with its sign."""
        if self.peek() == "{":
            return self.group()
        if (sign := self.peek()) in ("-", "+"):
            self.take()
            power = self.exponent()
            return power if sign == "+" else _signed(sign, power)
        if self.peek()[:1].isdigit() and self.peek(1) == "_":  # v^2_0
            return number(Fraction(self.take()))
        return self.power()

    def postfix(self, base: Node) -> Node:
        """Read what may follow a factor: `!`, `%`, and the primes of a name."""
        while True:
            token = self.peek()
            if token == "!":
                self.take()
                base = Node("!", (base,))
            elif token in (r"\%", "%"):
                self.take()
                base = Node("/", (base, number(100)))
            elif token == "'" and base.op == "sym":
                self.take()
                base = Node("sym", value=f"{base.value}'")
            else:
                return base

    def group(self) -> Node:
        """Read a sum in brackets."""
        closing = OPENING[self.take(*OPENING)]
        bars, self.bars = self.bars, 0
        inner = self.chosen()
        self.take(closing)
        self.bars = bars
        return inner

    def argument(self) -> Node:
        r"""Read what follows `\frac` and the like: a group, or one digit or sign."""
        if self.peek() == "{":
            return self.group()
        token = self.peek()
        if token.isdigit() and len(token) > 1:  # no braces
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return self.atom()

    def atom(self) -> Node:
        """Read a number, a letter, a name, a group, or what a command starts."""
        token = self.peek()
        if not token:
            raise Unreadable("ends early")
        if token[0].isdigit() or token[0] == ".":
            return self.numeral()
        if token in ("(", "{", "["):
            return self.group()
        if token in (r"\lfloor", r"\lceil"):
            return Node("floor" if token == r"\lfloor" else "ceil", (self.group(),))
        if token in ("|", r"\lvert", r"\vert", r"\mid"):
            return self.bars_around()
        name = token.lstrip("\\")
        name = SYNONYMS.get(name, name)
        if token[0].isalpha() and name == token and len(token) == 1:
            return self.letter()
        if name in FUNCTIONS:
            self.take()
            return function(self, name)
        if name in ("infty", "infinity", "inf"):
            self.take()
            return Node("inf")
        if name == "pi":
            self.take()
            return Node("pi")
        if name in SYMBOLS:
            self.take()
            return self.subscripted({"varepsilon": "epsilon", "varphi": "phi"}.get(name, name))
        return command(self)

    def numeral(self) -> Node:
        r"""Read a number, also with its base, `120_3`, or with a fraction after it, `5\frac{2}{7}`."""
        token = self.take()
        if len(token) > _MAX_DIGITS:
            raise Unreadable("too many digits")
        if self.peek() == "_":
            self.take()
            base = self.plain_text()
            if not (
                base.isdigit() and token.isdigit() and 2 <= int(base) <= 36 and int(max(token)) < int(base)
            ):
                raise Unreadable("no numeral of its base")
            return number(int(token, int(base)))
        if token.isdigit() and self.peek() == r"\frac":
            return self.mixed(int(token))
        mantissa, _, exponent = token.replace(",", "").lower().partition("e")
        if exponent and abs(int(exponent)) > _MAX_DIGITS:
            raise Unreadable("too large")
        return number(Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0))

    def mixed(self, whole: int) -> Node:
        r"""Continue after the 5 of `5\frac{2}{7}`; with anything but a proper fraction it is a product."""
        here, before = self.at, list(self.tokens)
        fraction = command(self)
        above, below = fraction.args
        if (
            isinstance(above.value, Fraction)
            and isinstance(below.value, Fraction)
            and above.value < below.value
        ):
            return Node("+", (number(whole), fraction))
        self.at, self.tokens = here, before
        return number(whole)

    def letter(self) -> Node:
        """Read a single letter: `e` and `i` are constants unless they are bound or have an index."""
        token = self.take()
        if token in ("e", "i") and self.peek() != "_" and token not in self.bound:
            return Node(token)
        return self.subscripted(token)

    def subscripted(self, name: str) -> Node:
        """Read the index of a symbol, if it has one."""
        if self.peek() != "_":
            return Node("sym", value=name)
        self.take()
        begin = self.at
        inside = self.tokens[begin + 1 : self.closing(begin)] if self.peek() == "{" else [self.peek()]
        if set(inside) & set(self.bound):
            index = self.group() if self.peek() == "{" else self.atom()
            return Node("index", (index,), name)
        return Node("sym", value=f"{name}_{self.plain_text()}")

    def closing(self, begin: int) -> int:
        """Return where the brace that opens at `begin` closes."""
        depth = 0
        for at in range(begin, len(self.tokens)):
            depth += (self.tokens[at] == "{") - (self.tokens[at] == "}")
            if depth == 0:
                return at
        raise Unreadable("open brace")

    def plain_text(self) -> str:
        """Return an argument as written, without fonts, braces and spaces."""
        begin = self.at
        if self.peek() in FONTS:
            self.take()
            begin = self.at
        if self.peek() != "{":
            return self.take()
        end = self.closing(begin)
        self.at = end + 1
        return "".join(t for t in self.tokens[begin + 1 : end] if t not in FONTS and t not in ("{", "}"))

    def bars_around(self) -> Node:
        """Read `|x|`."""
        opening = self.take()
        self.bars += 1
        depth, self.depth = self.depth, self.depth + 1
        inner = self.sum()
        self.bars -= 1
        self.depth = depth
        self.take("|", r"\rvert", opening)
        return Node("abs", (inner,))


def _signed(sign: str, term: Node) -> Node:
    if sign == "-":
        return (
            Node("num", value=-term.value)
            if isinstance(term.value, Fraction)
            else Node("*", (MINUS_ONE, term))
        )
    return Node("*", (Node("pm" if sign == r"\pm" else "mp"), term))


def _name(node: Node) -> str:
    if node.op != "sym":
        raise Unreadable("prime")
    return str(node.value)
