from __future__ import annotations

import json
from pathlib import Path

from scalequest.config import RunOptions
from scalequest.pages.cards import (
    ancestors,
    base_model,
    dataset_card,
    lineage,
    markdown_table,
    sources_of,
)
from scalequest.questions.contamination import BenchmarkSource
from stage_support import opened


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


def stage(folder: Path, name: str, **sources: dict[str, str]) -> str:
    """A finished stage's receipt; returns the name under which later stages refer to it."""
    folder.mkdir()
    receipt = {
        "stage": name, "version": 1, "fingerprint": name, "output": "0", "inputs": {}, "rows_in": 3,
        "kept": 3, "dropped": {}, "tokens": 1, "seconds": 1.0, "versions": {}, "commit": None, "dirty": False,
        "finished": True, **sources,
    }  # fmt: skip
    (folder / "receipt.json").write_text(json.dumps(receipt))
    return f"{name}/0"


def test_lineage_goes_back_to_the_first_model_and_question(tmp_path: Path) -> None:
    hub = {"Qwen/Qwen2-Math-7B-Instruct": "hub:Qwen/Qwen2-Math-7B-Instruct@abc"}
    made = stage(tmp_path / "qft", "qft", inputs={"hub:openai/gsm8k": "hub:openai/gsm8k/@1"}, starts_from=hub)
    qft = {str(tmp_path / "qft"): made}
    asked = {str(tmp_path / "asked"): stage(tmp_path / "asked", "generate_questions", inputs=qft)}
    base = {"Qwen/Qwen2-Math-7B": "hub:Qwen/Qwen2-Math-7B@def"}
    stage(tmp_path / "sft", "sft", inputs=asked, starts_from=base)
    receipt = json.loads((tmp_path / "sft/receipt.json").read_text())
    text = lineage(receipt)
    assert [one["stage"] for _, one in ancestors(sources_of(receipt))] == ["generate_questions", "qft"]
    for said in (
        "| Qwen/Qwen2-Math-7B |",
        "| generate\\_questions |",
        "| qft |",
        "Qwen/Qwen2-Math-7B-Instruct",
    ):
        assert said in text
    assert base_model(*next(iter(qft.items()))) == "Qwen/Qwen2-Math-7B-Instruct"
    assert base_model("/gone", "1/2") is None
    assert base_model(str(tmp_path / "qft"), "qft/another") is None, "the folder has been written again"


def test_the_hub_reads_a_data_sets_card(tmp_path: Path) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    folder = opened(
        "generate_questions", RunOptions(output_dir=str(tmp_path), track="none"), BenchmarkSource(source="a")
    )
    folder.blocks.write(
        0, [{"id": "a", "question": "?"}, {"id": "b", "question": "??"}], tokens=1, seconds=1.0
    )
    folder.finish(rows_in=2, card="# Mine\n\nText.", license="apache-2.0")
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["text-generation"]
    assert card.data.to_dict()["tags"] == ["scalequest", "generate_questions"]
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]
    assert load_dataset(str(tmp_path), split="train")["question"] == ["?", "??"]
