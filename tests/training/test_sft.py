"""QFT and SFT: exact training, exact resumption, saved models that anyone can load."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_support import RECIPES, logged, same, weights, write_yaml

from scalequest.chat import bind, load_format, load_tokenizer
from scalequest.config import ConfigError, build, parse
from scalequest.stage.folder import StageError

Train = Callable[..., Path]
Settings = dict[str, Any]
Rows = dict[str, Path]


def test_packed_loss_is_unpacked_loss(settings: Settings, rows: Rows, train: Train, tmp_path: Path) -> None:
    """Whether each row stands alone or several share a sequence: one loss, one gradient."""
    losses, norms = [], []
    for packing in (True, False):
        out = train(
            "sft",
            settings,
            input=[str(rows["solutions"])],
            output_dir=str(tmp_path / str(packing)),
            packing=packing,
            shuffle_dataset=False,
            per_device_train_batch_size=64,
            max_steps=1,
        )
        first = logged(out)[0]
        losses.append(first["loss"])
        norms.append(first["grad_norm"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_accumulation_times_batch_is_what_counts(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path
) -> None:
    outs = [
        train(
            "sft",
            settings,
            input=[str(rows["solutions"])],
            output_dir=str(tmp_path / f"{batch}x{steps}"),
            packing=False,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
        )
        for batch, steps in ((1, 8), (8, 1))
    ]
    one, other = (weights(out) for out in outs)
    assert all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)
    fingerprints = [json.loads((out / "receipt.json").read_text())["fingerprint"] for out in outs]
    assert fingerprints[0] == fingerprints[1]


def test_saved_model_loads_generates_and_stops(
    settings: Settings, rows: Rows, train: Train, chat: Any
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = train("qft", settings, input=[str(rows["questions"])], holdout=4, limit=30)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.generation_config.eos_token_id == chat.question_stop_ids
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.use_cache
    prompt = torch.tensor([chat.question_prefix_ids])
    assert model.generate(prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt.shape[1]
    assert not list(out.glob("*.bin")), "a pickle was left"
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["finished"]
    assert (receipt["rows_in"], receipt["kept"], receipt["dropped"]) == (30, 26, {"held_out": 4})
    assert receipt["tokens"] > 0
    assert "eval_loss" in receipt["counts"]
    assert "# out" in (out / "README.md").read_text()
    assert not (out / "prepared").exists()


def test_whoever_loads_a_solver_asks_it_as_it_was_trained(
    settings: Settings, rows: Rows, train: Train
) -> None:
    """Chat template, stop ids and card: a pipeline with messages says what the ids of the harness give."""
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    question = "Tom has 12 apples. He buys 7 more. How many apples does Tom have?"
    out = train("sft", settings, input=[str(rows["solutions"])], max_steps=2)
    assert (out / "chat_template.jinja").is_file()
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    chat = bind(load_format("tinymath"), load_tokenizer(str(out)))
    asked, prompt = [{"role": "user", "content": question}], chat.solve_prompt_ids(question)
    assert tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"] == prompt
    assert model.generation_config.eos_token_id == chat.solve_stop_ids
    made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    ask = pipeline("text-generation", model=model, tokenizer=tokenizer)
    said = ask(asked, max_new_tokens=12, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert said.strip() == chat.decode(made[0, len(prompt) :].tolist())
    card = ModelCard.load(out / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert "<|user|>What is 12 + 7?<|end|><|assistant|>" in card.text
    assert "vllm serve" in card.text
    assert card.data.to_dict()["tags"] == ["scalequest", "sft"]
    (start,) = json.loads((out / "receipt.json").read_text())["starts_from"]
    assert start == settings["model_name_or_path"]


def test_thoughts_are_trained_on_or_left_out(
    settings: Settings, chat: Any, tmp_path: Path, model_dir: Path
) -> None:
    """What `thinking: strip` trains on is what a row without thoughts gives; no answer is no target."""
    from scalequest.training import data
    from scalequest.training.identity import identify
    from scalequest.training.preparation import prepare
    from scalequest.training.sft import SFT

    thought, plain = "<think>2 and 2</think>\n\nIt is 4.", "It is 4."
    responses = [thought, plain, "<think>2 and", "<think></think>It is 4.", "It is <think>4</think>."]
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["instruction", "output"], *(["2 + 2?", one] for one in responses)])
    found, prints = {}, set()
    for thinking in ("keep", "strip"):
        given = {
            **settings,
            "input": [str(path)],
            "thinking": thinking,
            "output_dir": str(tmp_path / thinking),
        }
        identity = identify(SFT, *build(types_of("sft"), given))
        prepared = prepare(identity)
        found[thinking] = [
            [token for token in labels if token != data.IGNORED]
            for labels in data.load(prepared.folder)[0]["labels"]
        ]
        prints.add(json.dumps(identity.fingerprint, sort_keys=True))
        assert prepared.counts.dropped == {"unclosed_thoughts": 1}
    targets = {one: chat.solve_ids("2 + 2?", one)[1] for one in responses if one != responses[2]}
    assert found["keep"] == list(targets.values())
    assert found["strip"] == [targets[plain]] * 3 + [targets[responses[4]]]
    assert len(prints) == 2, "a change of `thinking` is another stage"


def test_model_learns(settings: Settings, rows: Rows, train: Train) -> None:
    out = train("qft", settings, input=[str(rows["questions"])], max_steps=12, learning_rate=5e-3)
    chat = bind(load_format("tinymath"), load_tokenizer(str(out)))
    empty = [{"role": "user", "content": ""}]
    asked = chat.tokenizer.apply_chat_template(empty, add_generation_prompt=True)["input_ids"]
    assert asked == chat.question_prefix_ids
    losses = [record["loss"] for record in logged(out) if "loss" in record]
    assert losses[-1] < losses[0] - 1


def test_paper_exact_cuts_as_the_authors_did(settings: Settings, rows: Rows, model_dir: Path) -> None:
    from scalequest.training.identity import identify
    from scalequest.training.preparation import prepare
    from scalequest.training.sft import QFT

    parts = build(types_of("qft"), {**settings, "input": [str(rows["questions"])], "paper_exact": True})
    identity = identify(QFT, *parts)
    trainer = QFT.trainer_of(prepare(identity))
    chunks = trainer.train_dataset["input_ids"]
    assert sorted(map(len, chunks)) == [248, 256, 256], "40 questions of 19 tokens, the second eos included"
    assert sum(ids.count(identity.chat.eos_id) for ids in chunks) == 80


def test_settings_that_would_cut_are_refused(settings: Settings, rows: Rows, train: Train) -> None:
    with pytest.raises(ConfigError, match="packing_strategy: 'wrapped' cuts rows"):
        train("sft", settings, input=[str(rows["solutions"])], packing_strategy="wrapped")


@pytest.mark.parametrize("setting", [{"completion_only_loss": False}, {"assistant_only_loss": True}])
def test_settings_that_labels_decide_are_refused(
    settings: Settings, rows: Rows, train: Train, setting: dict[str, bool]
) -> None:
    with pytest.raises(ConfigError, match="rows already have labels"):
        train("sft", settings, input=[str(rows["solutions"])], **setting)


def test_held_out_rows_need_not_be_packed(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path
) -> None:
    losses = []
    for packed in (True, False):
        given = {"holdout": 8, "eval_packing": packed, "output_dir": str(tmp_path / str(packed))}
        out = train("sft", settings, input=[str(rows["solutions"])], max_steps=1, **given)
        losses.append(json.loads((out / "receipt.json").read_text())["counts"]["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_finished_is_skipped_and_changed_settings_are_named(
    settings: Settings, rows: Rows, train: Train
) -> None:
    out = train("qft", settings, input=[str(rows["questions"])])
    before = (out / "model.safetensors").stat().st_mtime_ns
    train("qft", settings, input=[str(rows["questions"])], logging_steps=2)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(StageError, match=r"learning_rate: 0.001 -> 0.002"):
        train("qft", settings, input=[str(rows["questions"])], learning_rate=2e-3)


def test_prepare_only_is_used_by_the_run_that_follows(settings: Settings, rows: Rows, train: Train) -> None:
    out = train("sft", settings, input=[str(rows["solutions"])], prepare_only=True)
    made = next((out / "prepared").iterdir())
    assert (made / "rows.arrow").is_file()
    assert not (out / "receipt.json").exists()
    train("sft", settings, input=[str(rows["solutions"])], per_device_train_batch_size=1, max_steps=1)
    assert (out / "model.safetensors").is_file()


def test_lora_is_merged(settings: Settings, rows: Rows, train: Train, model_dir: Path) -> None:
    out = train(
        "sft",
        settings,
        input=[str(rows["solutions"])],
        use_peft=True,
        lora_r=4,
        lora_target_modules=["q_proj", "v_proj"],
        learning_rate=1e-2,
    )
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    merged, base = weights(out), load_file(model_dir / "model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed == {name for name in base if "q_proj" in name or "v_proj" in name}


def test_more_processes_launched_than_seen(
    settings: Settings, rows: Rows, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = build(types_of("sft"), {**settings, "input": [str(rows["solutions"])]})
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="2 processes were launched"):
        recipe_main("sft")(*parts)


def test_resumed_after_sigkill_is_uninterrupted(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path
) -> None:
    """Killed while it trains, a torn checkpoint beside the whole one: the same weights come out."""
    given = {**settings, "input": [str(rows["solutions"])], "max_steps": 60, "save_strategy": "steps"}
    given |= {
        "save_steps": 5,
        "save_total_limit": 2,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 1,
    }
    undisturbed = train("sft", given, output_dir=str(tmp_path / "undisturbed"), save_strategy="no")

    out = Path(given["output_dir"])
    command = [
        sys.executable,
        str(RECIPES / "sft.py"),
        "--config",
        str(write_yaml(tmp_path / "sft.yaml", given)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while not list(out.glob("checkpoint-*/complete.json")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "model.safetensors").exists()
    sealed = sorted(out.glob("checkpoint-*/complete.json"))[-1].parent
    step = int(sealed.name.partition("-")[2])
    torn = out / f"checkpoint-{step + 1000}"
    shutil.copytree(sealed, torn)
    (torn / "optimizer.pt").write_bytes(b"torn")

    train("sft", given)
    assert same(undisturbed, out)
    assert not torn.exists()
    assert len(list(out.glob("checkpoint-*"))) <= 2
    steps = [record["step"] for record in logged(out)]
    assert steps[-1] == 60, "the resumed run did not report to the end"


def test_a_wrong_key_is_one_line(settings: Settings, tmp_path: Path, quick_python: str) -> None:
    config = write_yaml(tmp_path / "qft.yaml", {**settings, "input": ["x"]})
    command = [quick_python, str(RECIPES / "qft.py"), "--config", str(config), "--max_lenght", "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1:] == done.stderr.splitlines()
    assert "max_length" in done.stderr


@pytest.mark.parametrize(
    ("text", "more", "named"),
    [
        ("learning_rate: fast", [], "learning_rate: expected float, got 'fast'"),
        ("seed: 1\nseed: 2", [], "line 2: duplicate key 'seed'"),
        ("seed: 1", ["--learning", "1"], "learning_rate"),
        ("max_seq_length: 9", [], "use 'max_length'"),
        ("packing: yes", [], "packing: expected bool"),
    ],
)
def test_wrong_settings_of_the_trainer_are_refused(
    text: str, more: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "qft.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        parse(*types_of("qft"), argv=["--config", str(tmp_path / "qft.yaml"), *more])
    assert named in capsys.readouterr().err


def types_of(name: str) -> tuple[type, ...]:
    from training_support import recipe

    types: tuple[type, ...] = recipe(name).types()
    return types


def recipe_main(name: str) -> Callable[..., None]:
    from training_support import recipe

    main: Callable[..., None] = recipe(name).main
    return main
