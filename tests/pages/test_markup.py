"""What models, files and people wrote stays text in every format that is written."""

from __future__ import annotations

import csv
import io
import json
import re
from html import unescape
from itertools import product
from pathlib import Path

import pytest

from scalequest.evaluation.tables import Table, format_csv, format_latex, format_markdown, print_tables
from scalequest.pages.cards import dataset_card, lineage, markdown_table
from scalequest.pages.elements import text as page_text
from scalequest.pages.elements import write_page
from scalequest.pages.markup import (
    cell,
    code,
    csv_text,
    front_matter,
    inline,
    one_line,
    paragraph,
    shorten,
    tex,
)

# Every break of a line that Python, Unicode or a Markdown reader knows.
BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
NASTY = [
    *("|", "||", "\\|", "\\\\|", "\\", "`", "``", "`|`", "*a*", "**a**", "_a_", "__a__", "~~a~~", "$x|y$"),
    "$$x$$",
    *("[a](http://b)", "![a](b)", "[a][b]", "[a][]", "[a]: http://b", "[^1]", "[^1]: x", "[x]", "[ ] x"),
    "](x",
    *("<b>a</b>", "<script>", "<!-- x", "<http://a.b>", "<a@b.c>", "&lt;", "&amp;", "&#124;", "&vert;"),
    "&NewLine;",
    *("http://a.b", "https://a.b/c?d=e", "www.a.bc", "ftp://a.b", "# a", "## a", "a #", "- a", "+ a"),
    *("* a", "1. a"),
    *("1) a", "> a", "---", "***", "___", "===", ":---", "| --- |", "```", "~~~", "    a", "\ta", "a  "),
    "<br>",
    *("5.0 [2.7, 9.0] [a]", "meta-llama/Llama-3", "a@b.c", "-3.5", "\\(x\\)", "\\[x\\]", "{{x}}"),
    *("{% x %}", "<!doctype"),
]
TEXTS = [
    *NASTY,
    *(f"a{gap}{text}" for gap, text in product(BREAKS, ["# b", "| b |", "- b", "> b", "b", "---"])),
]


def rendered(page: str) -> str:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(page)


def shown(html: str) -> list[str]:
    """The text of every cell of a rendered table."""
    return [unescape(found) for found in re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", html, re.DOTALL)]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_cell_shows_what_it_was_given(text: str) -> None:
    lines = markdown_table([{"a": text, "b": "end"}], "a", "b")
    assert len("\n".join(lines).splitlines()) == 3
    html = rendered("\n".join(lines))
    assert set(re.findall(r"<(\w+)", html)) <= {"table", "thead", "tbody", "tr", "th", "td", "br"}
    wanted = " ".join("<br>".join(part.strip() for part in text.splitlines()).split())
    (a, b, one, end) = shown(html)
    assert (a, b, end) == ("a", "b", "end")
    if "<br>" not in text:
        assert " ".join(one.split()) == wanted


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_titles_headings_and_notes_stay_text(text: str) -> None:
    table = Table("t", text, (text, "n"), ((text, "1"),), (text, "last"))
    page = rendered(format_markdown([table], title=text))
    tags = re.findall(r"<(/?\w+)", page)
    assert tags.count("h1") == tags.count("h2") == tags.count("table") == 1
    assert set(tags) <= {
        word
        for tag in ("h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "br")
        for word in (tag, f"/{tag}")
    }
    card = rendered(
        dataset_card(text, "About.", {text: text, "m": {text: 1}}, [{"a": text, text: 1}], "a", text)
    )
    assert len(re.findall("<h[12]", card)) == 2
    assert card.count("<table") == 2


@pytest.mark.parametrize(
    "text", [*NASTY, "a\x1b[31mb", "a\x00b", "a\u202eb", "a\ud800b", "\x9b31m"], ids=ascii
)
def test_the_dropped_rows_reasons_and_names_in_a_card(text: str) -> None:
    receipt = {
        **{"stage": text, "version": 1, "fingerprint": "abc", "rows_in": 1, "kept": 0, "dropped": {text: 1}},
        **{"tokens": 0, "seconds": 1.0, "inputs": {text: "f00d"}, "versions": {text: text}, "commit": None},
    }
    page = lineage(receipt)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", page)
    page.encode()
    html = rendered(page)
    assert html.count("<h2") == html.count("<table") == 1
    assert not re.search("<(a|em|strong|h1|li|script|img|s)[ >]", html)


def test_code_may_hold_backticks() -> None:
    for text in ("a", "`", "a`b", "``", "`a``b`"):
        assert unescape(re.findall("<code>(.*)</code>", rendered(code(text)))[0]) == text
    assert code("") == ""


def test_lines_stay_lines_in_a_cell_only() -> None:
    for gap in BREAKS:
        assert cell(f"a{gap}b") == "a<br>b"
        assert inline(f"a{gap}b") == one_line(f"a{gap}b") == paragraph(f"a{gap}b") == "a b"


def test_readable_where_nothing_is_markup() -> None:
    for text in ("5.0 [2.7, 9.0] [a]", "(n 3)", "-3.5", "a #1", "meta-llama/Llama-3.1-8B", "x < y"[:1]):
        assert inline(text) == text


# ------------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "-a", "+a", "=", "-", "@"),
        *("\t=1", " =1", "\r=1", "\n=1", "\u2028=1", "\x0b=1", "\u200b=1", "\ufeff=1", "＝1", "－1+1", "＋a"),
        "＠a",
        *("-3.5;=1", "-1 [=1]", "+1 555 1234", "-2e5x", "-(1)"),
    ],
    ids=ascii,
)
def test_no_cell_is_a_formula(text: str) -> None:
    for rows in ([[text]], [["a", f"b{text}"[1:]]]):
        (row,) = csv.reader(io.StringIO(csv_text(rows)))
        assert row[-1].startswith("'")
        assert row[-1][1:] == one_line(text)
    (heading, _) = csv.reader(io.StringIO(format_csv(Table("t", "T", (text,), (("1",),)))))
    assert heading[0].startswith("'")


@pytest.mark.parametrize(
    "text",
    [
        *("-3.5", "+2", "-1,234.5", "-2.1e-28", "-2.1e-28 [a]", "-3.5 [-4.0, -1.0]"),
        "-0.2 [-1.0, 0.4] (n 12)",
        *("–", "", "12 %", "-12 %", "a=b", "x-y", "user@host", "3", "0.5 [0.1, 0.9] [a]"),
    ],
)
def test_numbers_and_texts_stay(text: str) -> None:
    assert list(csv.reader(io.StringIO(csv_text([[text, "b"]])))) == [[text, "b"]]


@pytest.mark.parametrize("gap", BREAKS, ids=ascii)
def test_a_break_ends_no_row(gap: str) -> None:
    text = csv_text([["a", f"b{gap}=c"], ["d", 'e"f,g;h']])
    assert text.splitlines() == ["a,b =c", 'd,"e""f,g;h"']


# ------------------------------------------------------------------------------------- LaTeX, YAML, pages


def test_latex_takes_everything_as_text() -> None:
    specials = r"\ { } $ & # ^ _ ~ % < > | [ ] * ` "
    for char in specials.split():
        assert char not in tex(char).removeprefix("\\") or tex(char) in (f"\\{char}", f"{{{char}}}", "]")
    for gap in BREAKS:
        assert tex(f"a{gap}{gap}b") == "a  b" or gap == "\r\n"
    table = Table("t", "a\n\nb", ("x",), (("[3, 4]",), ("*",), ("a\\\\b & c\n\nd",)), ("n % o",))
    text = format_latex(table)
    assert "\n\n" not in text
    assert not re.search(r"\\\\\s*[*\[]", text)
    assert text.count("&") == text.count(r"\&")
    assert text.count("%") == text.count(r"\%")


@pytest.mark.parametrize(
    "value",
    [
        *("apache-2.0", "mit", "a: b", "a\n---\nb: 1", "---", "no", "y", "null", "1", "[a]", "{a}", "'a"),
        *('"a"', "#a"),
        *("a #b", "*a", "&a", "!a", "%a", "@a", "`a", "- a", "? a", "a:", " a", "", "é\u2028b", "a\x85b"),
        *("😀", "\t"),
        ["a: b", "---"],
    ],
    ids=ascii,
)
def test_the_header_of_a_card_is_yaml(value: str) -> None:
    import yaml

    from scalequest.config.bounded_yaml import load

    header = front_matter({"base_model": value, "last": "mit"})
    assert len(header.splitlines()) == 2
    for read in (yaml.safe_load, load):
        assert read(header) == {"base_model": value, "last": "mit"}


def test_a_page_can_be_written_whatever_it_holds(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", "a\ud800<b>", page_text("\x00\x1b[31m\u202e<script>\ud800"))
    page = (tmp_path / "a.html").read_text()
    assert "<script>" not in page
    assert not re.search("[\x00\x1b\u202e]", page)
    assert json.dumps(page)


def test_a_terminal_is_sent_no_control(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[31m\x9b\rb[bold]c"
    print_tables([Table("t", text, (text, "n"), ((text, "1"),), (text,))])
    out = capsys.readouterr().out
    assert not re.search("[\x1b\x9b\r]", out)
    assert "b[bold]c" in out


def test_a_long_text_is_shortened() -> None:
    assert (shorten("1234", 4), shorten("12345", 4), shorten("", 4)) == ("1234", "123…", "")
