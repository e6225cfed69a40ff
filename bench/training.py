r"""How fast a training recipe goes, beside what people would write instead; how fast it prepares its rows.

    python bench/training.py --model runs/smollm2/models/smollm2-135m-instruct \
        --chat-format smollm2 --output_dir runs/bench_training

For the numbers that count: SmolLM2-135M on an otherwise idle machine with SCALEQUEST_DATA set, about an hour
on 2 cores. To see that it runs: `--model recipes/tiny/models/tiny-base --chat-format tinymath --steps 2
--rounds 1 --rows 2000`.

One process, one dtype on all sides, the same rows in the same ids, nothing cut but in the column that cuts. A
useful token is one of a row, not of padding; every column takes as many of them a step (of whole batches, to
within one). Timed are whole steps (forward, backward, clipping, AdamW), after one to warm up; columns run in
turn, round after round, and the table gives the median of the ratios within a round.

- ours: `recipes/qft.py`'s own trainer, packed; packing efficiency is useful tokens over all tokens.
- bare loop: plain PyTorch over the very batches of ours; what Trainer, TRL and we cost on top.
- TRL padded: stock SFTTrainer, batches of 16 at random; grouped: by length; cut: packed by cutting anywhere.

Gradients are checkpointed on all sides: 16 rows padded to 1,000 tokens need more than 24 GiB without.

Preparation: question-answer rows to ids and packed sequences, one process each, in processes of their own for
their peak memory: ours (`training/data.py`, then TRL's packing) and TRL's own from the same texts.
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

from scalequest.pages.markup import table_lines

BARS = {"TRL padded": 2.0, "bare loop": 0.9, "TRL preparation": 3.0, "packing": 0.97}
PADDED_BATCH = 16


@dataclass(frozen=True)
class Side:
    """One way to train: makes batches, and takes a step on some of them.

    Attributes:
        name: of the column.
        batches: endless; each a dict of tensors.
        forward: a batch to its summed loss over as many targets.
        useful: of a batch, its tokens that are no padding.
    """

    name: str
    batches: Iterator[dict[str, Any]]
    forward: Callable[[dict[str, Any]], Any]
    useful: Callable[[dict[str, Any]], int]


def rows_of(kind: str, limit: int | None) -> list[dict[str, Any]]:
    """GSM8K and MATH questions, or the published question-answer samples."""
    from scalequest.records import read_inputs

    if kind == "pairs":
        return read_inputs(["$SCALEQUEST_DATA/scalequest_samples.jsonl.gz"], "query", "response")
    sources = ["$SCALEQUEST_DATA/gsm8k_train.jsonl.gz", "$SCALEQUEST_DATA/math_train.jsonl.gz"]
    return read_inputs(sources, "question", columns={"question": "problem"}, limit=limit)


def trainers(args: argparse.Namespace, kind: str, folder: Path) -> tuple[list[Side], Any, float, int]:
    """All sides on one model; with the model, packing efficiency and the rows that did not fit."""
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
    """Tokens that are no padding; a packed row's padding is a run of documents of one token."""
    import torch

    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    positions = batch["position_ids"]
    following = torch.nn.functional.pad(positions[:, 1:], (0, 1), value=0)
    return int(positions.numel() - ((positions == 0) & (following == 0)).sum())


def as_side(name: str, trainer: Any) -> Side:
    """A trainer's own batches, and its own step; what `train()` would set up before them is set up here."""
    trainer.create_optimizer_and_scheduler(num_training_steps=10_000)
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    model = trainer.accelerator.prepare_model(trainer.model)  # autocast is its forward's
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
    """What a loop of one's own would do on the same batches: the model's loss, backward, clip, AdamW."""
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
    """Useful tokens a second over so many steps of at least `tokens` useful tokens each."""
    done, seconds = 0, 0.0
    for number in range(steps + 1):
        batches: list[dict[str, Any]] = []
        while sum(map(side.useful, batches)) < tokens:
            batches += islice(side.batches, 1)
        start = time.perf_counter()
        for batch in batches:
            side.forward(dict(batch))
        side.forward.step()  # type: ignore[attr-defined]
        if number:  # the first one warms up
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
        print(
            f"\n{kind}: packing efficiency {efficiency:.3f} (bar {BARS['packing']}), {dropped} rows dropped\n"
        )
        shown = [(name, f"{rates[name]:,.0f}", f"{ratios[name]:.2f}", BARS.get(name)) for name in rates]
        print("\n".join(table_lines(("side", "useful tokens/s", "ours / theirs", "bar"), shown)))
    return measured


def prepare_one(args: argparse.Namespace) -> None:
    """In a process of its own: prepare `--prepare` rows, print rows a second and the peak memory."""
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
            config.num_hidden_layers = 1  # only its tokenizer counts here
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
    """Most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Time both preparations, each in its own process."""
    found = {}
    for side in ("ours", "TRL"):
        command = [sys.executable, __file__, "--side", side, "--prepare", str(args.prepare)]
        command += ["--model", args.model, "--chat-format", args.chat_format]
        command += ["--max-length", "4096"]  # SFT's; nothing is dropped here, and nothing cut there
        with tempfile.TemporaryDirectory() as cache:
            env = {**os.environ, "HF_DATASETS_CACHE": cache}
            out = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
        found[side] = json.loads(out.splitlines()[-1])
    ratio = found["TRL"]["seconds"] / found["ours"]["seconds"]
    print(f"\npreparing {args.prepare:,} question-answer rows, one process\n")
    shown = [
        (side, f"{args.prepare / one['seconds']:,.0f}", f"{one['peak']:.2f}", one["sequences"])
        for side, one in found.items()
    ]
    print("\n".join(table_lines(("side", "rows/s", "peak GB", "sequences"), shown)))
    print(f"\nours / TRL's: {ratio:.2f} (target {BARS['TRL preparation']})")
    return {**found, "ratio": ratio}


def parser() -> argparse.ArgumentParser:
    """The command line."""
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
    made.add_argument("--side", choices=["ours", "TRL"], help=argparse.SUPPRESS)
    return made


def main(args: argparse.Namespace) -> None:
    """Measure what was asked for, print, write."""
    if args.side:
        prepare_one(args)
        return
    measured: dict[str, Any] = {"training": train(args)}
    if args.prepare:
        measured["preparation"] = prepare(args)
    if args.output_dir:
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "training.json").write_text(json.dumps({**measured, "settings": vars(args)}, indent=1))


if __name__ == "__main__":
    main(parser().parse_args())
