from __future__ import annotations

from pathlib import Path

from scalequest.pages import elements

EVIL = '<script>alert("x")</script>'


def test_whatever_a_model_wrote_is_escaped(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    elements.write_page(
        page,
        EVIL,
        elements.section(EVIL, elements.table([{EVIL: EVIL, "n": 1200}]), note=EVIL),
        elements.pairs([(EVIL, f"one {EVIL}", f"{EVIL} two")], EVIL, EVIL),
        elements.bars({EVIL: 3}),
        elements.histogram({EVIL: [1.0, 2.0]}, EVIL),
    )
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 8
    assert "1,200" in text


def test_a_histogram_has_a_bar_for_every_bin_and_shares_that_sum_to_one() -> None:
    picture = elements.histogram({"before": [0, 0, 1, 2], "after": [2]}, "steps")
    assert picture.count("<rect") == 6
    assert "before: 0: 50.0 %" in picture
    assert "after: 2: 100.0 %" in picture
    assert "Nothing to plot" in elements.histogram({"before": []}, "steps")
    assert "before" not in elements.histogram({"steps": [0, 1]}, "x"), "one sample needs no legend"
    assert "0.3 in all 2 rows" in elements.histogram({"same": [0.3, 0.3]}, "x")
    lengths = elements.histogram({"characters": [42.0, 985.0, 300.5]}, "characters")
    assert all(f">{tick}</text>" in lengths for tick in ("200", "400", "600", "800"))


def test_numbers_are_readable() -> None:
    shown = [elements.number(value) for value in (1228.0, 12345, 0.97312, 99.5, 5e-7)]
    assert shown == ["1,228", "12,345", "0.973", "99.5", "5e-07"]
    cell = elements.table([{"clean": "99.77 %"}, {"clean": "100.00 %"}])
    assert cell.count('class="n"') == 3


def test_a_note_stands_above_what_it_explains() -> None:
    section = elements.section("title", "a long table", note="how to read it")
    assert section.index("title") < section.index("how to read it") < section.index("a long table")


def test_shared_words_are_marked() -> None:
    found = [("pair", "a b", "a c")]
    page = elements.pairs(found, "dropped", "kept")
    assert "<mark>a</mark> b" in page
    assert "<th>dropped</th><th>kept</th>" in page
    assert "a <mark>b</mark>" in elements.pairs(found, "", "", differences=True)
    assert elements.pairs([], "dropped", "kept") == ""
