r"""Measure how fast a training recipe is, compared with common alternatives, and how fast it prepares rows.

    python bench/training.py --model runs/smollm2/models/smollm2-135m-instruct \
        --chat-format smollm2 --output_dir runs/bench_training

For meaningful numbers: SmolLM2-135M on an otherwise idle machine with SCALEQUEST_DATA set, about an hour on 2
cores. As a quick test: `--model recipes/tiny/models/tiny-base --chat-format tinymath --steps 2 --rounds 1
--rows 2000`.

All sides use one process, the same dtype and the same rows with the same ids; nothing is cut except in the
column that cuts. A useful token belongs to a row, not to padding; every column takes the same number of them
per step (to within one batch). Whole steps are timed (forward, backward, clipping, AdamW), after one warm-up
step; columns take turns, round after round, and the table gives the median of the ratios within a round.

- ours: the trainer of `recipes/qft.py`, packed; packing efficiency is the share of useful tokens.
- bare loop: plain PyTorch over exactly our batches; it shows the overhead of Trainer, TRL and our code.
- TRL padded: stock SFTTrainer, random batches of 16; grouped: by length; cut: packed by cutting anywhere.

Gradients are checkpointed on all sides, because 16 rows padded to 1,000 tokens would need more than 24 GiB.

Preparation: question-answer rows to ids and packed sequences, in one process each, to measure the peak
memory, also round after round: ours (`training/data.py`, then TRL's packing) and TRL's own from the same
texts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from comparisons import Comparison, add_option, append, timing, version_of

from scalequest.pages.markup import table_lines

BARS = {"TRL padded": 2.0, "bare loop": 0.9, "TRL preparation": 3.0, "packing": 0.97}
PADDED_BATCH = 16


@dataclass(frozen=True)
class Side:
    """A method of training: it makes batches and takes steps on them.

    Attributes:
        name: the name of the column.
        batches: an endless iterator; each batch is a dict of tensors.
        forward: returns the loss of a batch, summed and divided by the given number of targets.
        useful: returns the number of tokens of a batch that are not padding.
    """

    name: str
    batches: Iterator[dict[str, Any]]
    forward: Callable[[dict[str, Any]], Any]
    useful: Callable[[dict[str, Any]], int]


def rows_of(kind: str, limit: int | None) -> list[dict[str, Any]]:
    """Return GSM8K and MATH questions, or the published question-answer samples."""
    from scalequest.records import read_inputs

    if kind == "pairs":
        return read_inputs(["$SCALEQUEST_DATA/scalequest_samples.jsonl.gz"], "query", "response")
    sources = ["$SCALEQUEST_DATA/gsm8k_train.jsonl.gz", "$SCALEQUEST_DATA/math_train.jsonl.gz"]
    return read_inputs(sources, "question", columns={"question": "problem"}, limit=limit)


def trainers(args: argparse.Namespace, kind: str, folder: Path) -> tuple[list[Side], Any, float, int]:
    """Return all sides with one model; also the model, packing efficiency and rows that did not fit."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.config import build
    from scalequest.training import data
    from scalequest.training.identity import identify
    from scalequest.training.preparation import prepare
    from scalequest.training.sft import QFT, SFT

    source = folder / f"{kind}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind, args.rows)))
    common = {
        "use_cpu": not torch.cuda.is_available(), "bf16": args.bf16, "gradient_checkpointing": False,
        "max_length": args.max_length, "learning_rate": 1e-5, "seed": 1, "report_to": "none",
        "per_device_train_batch_size": 1, "dataloader_pin_memory": False,
    }  # fmt: skip
    ours = {**common, "input": [str(source)], "chat_format": args.chat_format, "track": "none"}
    ours |= {"model_name_or_path": args.model, "output_dir": str(folder / kind), "dtype": "float32"}
    stage = SFT if kind == "pairs" else QFT
    identity = identify(stage, *build(stage.configs(), ours))
    prepared = prepare(identity)
    packed = stage.trainer_of(prepared)
    model = packed.model
    lengths = [len(ids) for ids in packed.train_dataset["input_ids"]]
    efficiency = sum(lengths) / (len(lengths) * args.max_length)

    tokenizer = load_tokenizer(args.model)
    chat = bind(load_format(args.chat_format), tokenizer)
    plain = data.load(prepared.folder)[0]
    plain = Dataset.from_dict({key: plain[key][:] for key in ("input_ids", "labels")})

    def stock(**settings: Any) -> Any:
        config = SFTConfig(**{**common, "output_dir": str(folder / "stock"), **settings})
        fresh = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, use_safetensors=True)
        return SFTTrainer(model=fresh, args=config, train_dataset=plain, processing_class=tokenizer)

    padded = {"packing": False, "per_device_train_batch_size": PADDED_BATCH}
    sides = [
        as_side("ours", packed),
        bare("bare loop", packed, model),
        as_side("TRL padded", stock(**padded)),
        as_side("TRL grouped", stock(**padded, train_sampling_strategy="group_by_length")),
        as_side("TRL cut", stock(packing=True, packing_strategy="wrapped")),
    ]
    dropped = sum(prepared.counts.dropped.values())
    assert chat.eos_id is not None
    return sides, identity, efficiency, dropped


def useful(batch: dict[str, Any]) -> int:
    """Return the tokens that are not padding; a packed row's padding is a run of one-token documents."""
    import torch

    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    positions = batch["position_ids"]
    following = torch.nn.functional.pad(positions[:, 1:], (0, 1), value=0)
    return int(positions.numel() - ((positions == 0) & (following == 0)).sum())


def as_side(name: str, trainer: Any) -> Side:
    """Return a trainer's own batches and step, after the set-up that `train()` would do."""
    trainer.create_optimizer_and_scheduler(num_training_steps=10_000)
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    model = trainer.accelerator.prepare_model(trainer.model)  # autocast is part of its forward
    model.train()
    loader = trainer.get_train_dataloader()

    def forward(batch: dict[str, Any]) -> Any:
        items = (batch["labels"] != -100).sum()
        return trainer.training_step(model, batch, num_items_in_batch=items)

    def step() -> None:
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    forward.step = step  # type: ignore[attr-defined]
    return Side(name, cycle(loader), forward, useful)


def bare(name: str, trainer: Any, model: Any) -> Side:
    """Return a hand-written loop on the same batches: the model's loss, backward, clipping, AdamW."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    bf16 = trainer.args.bf16
    device = trainer.args.device

    def forward(batch: dict[str, Any]) -> Any:
        batch = {key: value.to(device) for key, value in batch.items()}
        labels = batch.pop("labels")
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            hidden = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else model
            logits = hidden.lm_head(hidden.model(**batch, use_cache=False).last_hidden_state)
        shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), shifted.flatten(), reduction="mean"
        )
        loss.backward()
        return loss.detach()

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    forward.step = step  # type: ignore[attr-defined]
    return Side(name, cycle(trainer.get_train_dataloader()), forward, useful)


def timed(side: Side, tokens: int, steps: int) -> float:
    """Return useful tokens per second over this many steps of at least `tokens` useful tokens each."""
    done, seconds = 0, 0.0
    for number in range(steps + 1):
        batches: list[dict[str, Any]] = []
        while sum(map(side.useful, batches)) < tokens:
            batches += islice(side.batches, 1)
        start = time.perf_counter()
        for batch in batches:
            side.forward(dict(batch))
        side.forward.step()  # type: ignore[attr-defined]
        if number:  # the first one is a warm-up
            seconds += time.perf_counter() - start
            done += sum(map(side.useful, batches))
    return done / seconds


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all sides on questions and on pairs."""
    measured: dict[str, Any] = {}
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            sides, _, efficiency, dropped = trainers(args, kind, Path(folder))
            rounds: list[dict[str, float]] = []
            for number in range(args.rounds):
                order = sides if number % 2 == 0 else sides[::-1]
                rounds.append({})
                for side in order:
                    rounds[-1][side.name] = timed(side, args.tokens, args.steps)
                    print(
                        f"{kind}, round {number + 1}: {side.name} {rounds[-1][side.name]:,.0f}",
                        file=sys.stderr,
                    )
        rates = {side.name: statistics.median(one[side.name] for one in rounds) for side in sides}
        ratios = {
            side.name: statistics.median(one["ours"] / one[side.name] for one in rounds) for side in sides
        }
        measured[kind] = {"tokens/s": rates, "ours over": ratios, "packing": efficiency, "dropped": dropped}
        measured[kind]["rounds"] = rounds
        print(
            f"\n{kind}: packing efficiency {efficiency:.3f} (bar {BARS['packing']}), {dropped} rows dropped\n"
        )
        shown = [(name, f"{rates[name]:,.0f}", f"{ratios[name]:.2f}", BARS.get(name)) for name in rates]
        print("\n".join(table_lines(("side", "useful tokens/s", "ours / theirs", "bar"), shown)))
    return measured


def prepare_one(args: argparse.Namespace) -> None:
    """In a separate process: prepare `--prepare` rows, print rows per second and the peak memory."""
    from datasets import Dataset
    from trl import SFTConfig, pack_dataset

    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.training import data

    pairs = [(row["query"], row["response"]) for row in rows_of("pairs", None)]
    many = islice(cycle(pairs), args.prepare)
    rows = [{"id": str(n), "query": f"{q} ({n})", "response": r} for n, (q, r) in enumerate(many)]
    tokenizer = load_tokenizer(args.model)
    chat = bind(load_format(args.chat_format), tokenizer)
    texts = chat.format.templates()
    before, start = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if args.side == "ours":
            render = partial(data.solution, max_length=args.max_length)
            data.prepare(Path(folder) / "p", rows, render, chat)
            made = pack_dataset(data.load(Path(folder) / "p")[0], args.max_length, "bfd")
        else:
            from transformers import AutoConfig, AutoModelForCausalLM
            from trl import SFTTrainer

            solving = texts["solving"]
            theirs = Dataset.from_list(
                [
                    {"prompt": solving.replace("{question}", row["query"]), "completion": row["response"]}
                    for row in rows
                ]
            )
            config = AutoConfig.from_pretrained(args.model)
            config.num_hidden_layers = 1  # only its tokenizer matters here
            settings = SFTConfig(
                output_dir=folder, max_length=args.max_length, packing=True, use_cpu=True, bf16=False
            )
            start = time.perf_counter()
            made = SFTTrainer(
                model=AutoModelForCausalLM.from_config(config),
                args=settings,
                train_dataset=theirs,
                processing_class=tokenizer,
            ).train_dataset
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "sequences": len(made), "peak": peak(), "before": before}))


def peak() -> float:
    """Return the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Time both preparations, each in a separate process, round after round."""
    sides = ("ours", "TRL")
    rounds = [
        {side: prepare_side(args, side) for side in sides[:: 1 if number % 2 == 0 else -1]}
        for number in range(args.rounds)
    ]
    ratio = statistics.median(one["TRL"]["seconds"] / one["ours"]["seconds"] for one in rounds)
    print(f"\npreparing {args.prepare:,} question-answer rows, one process\n")
    shown = [
        (
            side,
            f"{args.prepare / statistics.median(one[side]['seconds'] for one in rounds):,.0f}",
            f"{max(one[side]['peak'] for one in rounds):.2f}",
            rounds[0][side]["sequences"],
        )
        for side in sides
    ]
    print("\n".join(table_lines(("side", "rows/s", "peak GB", "sequences"), shown)))
    print(f"\nours / TRL's: {ratio:.2f} (target {BARS['TRL preparation']})")
    return {"rounds": rounds, "ratio": ratio}


def prepare_side(args: argparse.Namespace, side: str) -> dict[str, Any]:
    """Return the seconds, packed sequences and peak memory of one preparation in its own process."""
    command = [sys.executable, __file__, "--side", side, "--prepare", str(args.prepare)]
    command += ["--model", args.model, "--chat-format", args.chat_format]
    command += ["--max-length", "4096"]  # SFT's; ours drops nothing at this length, and TRL cuts nothing
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "HF_DATASETS_CACHE": cache}
        out = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


# What the columns of `train` are called beside ours.
TRAINED = {
    "bare loop": ("training step", "bare PyTorch loop", "over the same packed batches"),
    "TRL padded": ("padded", "TRL", f"it pads random batches of {PADDED_BATCH}"),
    "TRL grouped": ("grouped by length", "TRL", f"it pads batches of {PADDED_BATCH} of similar length"),
    "TRL cut": ("cut", "TRL", "it packs by cutting rows anywhere"),
}


def compared(args: argparse.Namespace, measured: dict[str, Any]) -> list[Comparison]:
    """Return our speed beside those of the other methods."""
    versions = {"TRL": version_of("trl"), "bare PyTorch loop": version_of("torch")}
    found = []
    for kind, one in measured["training"].items():
        for side, (what, peer, how) in TRAINED.items():
            stage = "SFT on pairs" if kind == "pairs" else "QFT on questions"
            rates = ([each[name] for each in one["rounds"]] for name in ("ours", side))
            title = f"{stage}, {Path(args.model).name}, {args.steps} steps of {args.tokens:,} tokens; {how}"
            key = f"training/{kind}, {what}/{peer}"
            found.append(timing(key, title, peer, versions[peer], "useful tokens/s", *rates))
    if "preparation" in measured:
        rounds = measured["preparation"]["rounds"]
        rates = ([args.prepare / each[name]["seconds"] for each in rounds] for name in ("ours", "TRL"))
        title = f"{args.prepare:,} question-answer rows to token ids and packed sequences"
        found.append(timing("preparation/rows/TRL", title, "TRL", versions["TRL"], "rows/s", *rates))
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--model", required=True, help="folder of a model")
    made.add_argument("--chat-format", required=True, help="its chat format")
    made.add_argument("--output_dir", help="output folder for training.json")
    made.add_argument("--kinds", nargs="*", default=["questions", "pairs"], choices=["questions", "pairs"])
    made.add_argument("--rows", type=int, help="use only the first N questions")
    made.add_argument("--steps", type=int, default=6, help="timed steps per round")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--tokens", type=int, default=2048, help="useful tokens per step")
    made.add_argument("--max-length", type=int, default=1024)
    made.add_argument("--bf16", action="store_true", help="use autocast for all sides")
    made.add_argument("--prepare", type=int, default=200_000, help="number of rows to prepare; 0: none")
    add_option(made)
    made.add_argument("--side", choices=["ours", "TRL"], help=argparse.SUPPRESS)
    return made


def main(args: argparse.Namespace) -> None:
    """Run the requested measurements, print and write them."""
    if args.side:
        prepare_one(args)
        return
    measured: dict[str, Any] = {"training": train(args)}
    if args.prepare:
        measured["preparation"] = prepare(args)
    append(args.comparisons, compared(args, measured))
    if args.output_dir:
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "training.json").write_text(
            json.dumps({**measured, "settings": vars(args)}, default=str, indent=1)
        )


if __name__ == "__main__":
    main(parser().parse_args())
