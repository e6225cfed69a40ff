from __future__ import annotations

from pathlib import Path

from scalequest import pages

EVIL = '<script>alert("x")</script>'


def test_whatever_a_model_wrote_is_escaped(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    pages.write_page(
        page,
        EVIL,
        pages.section(EVIL, pages.table([{EVIL: EVIL, "n": 1200}]), note=EVIL),
        pages.pairs([(EVIL, f"one {EVIL}", f"{EVIL} two")]),
        pages.bars({EVIL: 3}),
        pages.histogram({EVIL: [1.0, 2.0]}, EVIL),
    )
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 8
    assert "1,200" in text


def test_a_histogram_has_a_bar_for_every_bin_and_shares_that_sum_to_one() -> None:
    picture = pages.histogram({"before": [0, 0, 1, 2], "after": [2]}, "steps")
    assert picture.count("<rect") == 6
    assert "before: 0: 50.0 %" in picture
    assert "after: 2: 100.0 %" in picture
    assert "Nothing to plot" in pages.histogram({"before": []}, "steps")
    assert pages.histogram({"same": [0.3, 0.3]}, "x").count("<rect") == 1


def test_shared_words_are_marked() -> None:
    assert "<mark>a</mark> b" in pages.pairs([("pair", "a b", "a c")])
