from __future__ import annotations

from scalequest.pages.cards import dataset_card, lineage, markdown_table


def test_what_a_model_wrote_cannot_leave_its_cell() -> None:
    row = {"question": "a | b\n<script>x</script> `c` $\\frac{1}{2}$ [l](u) *e*", "n": 0.123456, "none": None}
    line = markdown_table([row], "question", "n", "none", "absent")[2]
    assert "\n" not in line
    assert line.startswith(
        "| a \\| b<br>&lt;script&gt;x&lt;/script&gt; \\`c\\` \\$\\\\frac{1}{2}\\$ [l\\](u) \\*e\\* |"
    )
    assert line.endswith("| 0.123 |  |  |")


def test_a_card_shows_settings_and_rows() -> None:
    card = dataset_card("Title", "What it is.", {"a": 1, "how": {"t": 0.7}}, [{"id": "q-1"}], "id")
    assert card.startswith("# Title\n\nWhat it is.\n")
    assert "| how.t | 0.7 |" in card
    assert "| q-1 |" in card
    assert "The first rows" not in dataset_card("Title", "", {}, [], "id")


def test_lineage_names_inputs_counts_and_code() -> None:
    text = lineage(
        {
            "stage": "filter_questions",
            "version": 2,
            "fingerprint": "abc",
            "rows_in": 1000,
            "kept": 990,
            "dropped": {"not_english": 10},
            "tokens": 0,
            "seconds": 1.4,
            "inputs": {"runs/generate_questions": "f00d/beef"},
            "versions": {"python": "3.11.7"},
            "commit": "0123456789abcdef",
            "dirty": True,
        }
    )
    assert "Rows in: 1,000; kept: 990; dropped: 10 not\\_english." in text
    assert "| runs/generate\\_questions | f00d/beef |" in text
    assert "commit 0123456789ab with changes, python 3.11.7" in text
