"""A stranger's model, questions, filter, reward and benchmark through the loop, as docs/own.md walks."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scalequest.pipeline.columns import ADDED
from scalequest.records import read_dropped, read_rows
from tiny_model import stories

ROOT = Path(__file__).resolve().parents[1]
# Gemma's turns, as its own template has them, on a vocabulary of this test
TEMPLATE = """\
{{ bos_token }}{% for message in messages %}<start_of_turn>\
{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{{ message['content'] }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""


def walk() -> tuple[dict[str, str], list[list[str]]]:
    """The files that the page shows, by name, and the words of its commands."""
    page = (ROOT / "docs/own.md").read_text(encoding="utf-8")
    section = page.partition("## The whole walk\n")[2].partition("\n## ")[0]
    files = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", section, re.S)
    (commands,) = re.findall(r"```bash\n(.*?)```", section, re.S)
    return dict(files), [shlex.split(line) for line in commands.replace("\\\n", "").splitlines()]


def build_model(folder: Path) -> None:
    """A two-layer Qwen3 with random weights, and a tokenizer whose chat template is in Gemma's markup."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator([text for pair in stories(200) for text in pair], trainer)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        additional_special_tokens=special[3:], chat_template=TEMPLATE,
    )  # fmt: skip
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=16, max_position_embeddings=512, **size
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_table(path: Path, head: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def write_pieces(mine: Path, files: dict[str, str]) -> None:
    build_model(mine / "my_model")
    found = stories(26, seed=11)
    questions = [[question] for question, _ in found[:20]]
    more = [questions[0], ["小明有三个苹果。"], ["How many? " * 30]]
    write_table(mine / "my_questions.csv", ["Problem"], [*questions, *more])
    problems = [
        [question, solution.rpartition("{")[2].partition("}")[0]] for question, solution in found[20:]
    ]
    write_table(mine / "my_problems.csv", ["Problem", "Answer"], problems)
    for name, text in files.items():
        (mine / name).write_text(text)


def test_the_walk_stays_short() -> None:
    files, commands = walk()
    assert set(files) == {"my_filters.py", "my_reward.py"}
    assert all(len(text.splitlines()) + 1 <= 10 for text in files.values())
    assert [words[:2] for words in commands] == [["scalequest", "benchmark"], ["scalequest", "run"]]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_strangers_pieces_go_through_the_loop(tmp_path: Path) -> None:
    files, commands = walk()
    write_pieces(tmp_path, files)
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "scalequest", *words[1:]],
            env=environment, capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"CPU seconds: {used.ru_utime + used.ru_stime:.0f}")
    output = tmp_path / "runs/own"
    for receipt in sorted(output.glob("*/receipt.json"), key=lambda path: path.stat().st_mtime):
        print(receipt.parent.name, json.loads(receipt.read_text()).get("seconds"))
    report = (output / "report/report.md").read_text().replace("\\", "")
    assert "Every row is accounted for." in report
    assert "filter_questions: with my_filters.py:keep (sha256 " in report
    assert "score: with my_reward.py:score (sha256 " in report
    assert "too_many_words 1" in report
    dropped = [row["reason"] for row in read_dropped(output / "filter_questions")]
    assert sorted(dropped) == ["duplicate", "language", "too_many_words"]
    made = {"id", "question"}.union(
        *(ADDED[name] for name in ("filter_questions", "solve_questions", "score"))
    )
    for row in read_rows(output / "score"):
        assert set(row) <= made, "the look ahead would miss a column"
        ends = zip(row["responses"], row["finish_reasons"], strict=True)
        assert row["rewards"] == [-float(len(text)) if end == "stop" else None for text, end in ends]
    results = json.loads((output / "evaluate/mine/results.json").read_text())["results"]
    assert [(one["benchmark"], one["n"]) for one in results] == [("mine", 6)]
    template = (output / "sft/chat_template.jinja").read_text()
    assert "<start_of_turn>" in template
    assert "boxed" in template, "the instruction that it was trained with"
