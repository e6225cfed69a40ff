"""Rebuild the files that the `tiny` profile uses: questions, test splits, tokenizer and models.

    python recipes/tiny/rebuild.py

`tiny-base` is trained on plain text of the domain (stories told with their numbers, bare calculations,
questions, some of them broken, as in real text) and never on a worked solution. `tiny-solver` is that model
trained further on worked solutions with the question masked; every fourth batch is plain text again, because
the model would otherwise forget how sentences of the domain look. `tiny-judge` is tiny-solver trained further
on solutions, verdicts and rewritten questions (`tinymath.lessons`); its plain text is mostly drills, in which
a calculation or a look-up fails as often as it succeeds.

The labels follow from how the world made each text, and everything follows from the seed. The script prints
seconds, accuracies and the hashes of its output; `measure_solver.py` measures what tiny-judge can do beside
solving (models/README.md). Hardware: two CPU cores, 63 minutes without bfloat16 instructions, half of it
for tiny-judge.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scalequest.config import load_yaml
from scalequest.precision import native
from tinymath import lessons, world

HERE = Path(__file__).resolve().parent
SPLITS_FOLDER = HERE.parents[1] / "eval" / "benchmarks" / "data"
SEED = 2410
TRAIN_STEPS = (1, 2, 3)
MODELS = ("tiny-base", "tiny-solver", "tiny-judge")  # each is trained from the one before it
# For each split: its seed, its numbers of steps, and whether it uses combinations and wordings held out of
# training.
SPLITS = {
    "dev": (f"{SEED} test", TRAIN_STEPS, False),  # used to choose the demo's settings
    "combinations": (f"{SEED} combinations", (2, 3), True),
    "longer": (f"{SEED} longer", (4,), False),
    "five_steps": (f"{SEED} five steps", (5,), False),
}
SPECIALS = ("<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>")
FOREIGN = (
    "{n} hat {v} Äpfel und kauft noch {a} Äpfel. Wie viele Äpfel hat {n} jetzt?",
    "{n} a {v} pommes et en achète {a} de plus. Combien de pommes {n} a-t-il maintenant ?",
    "{n} tiene {v} manzanas y compra {a} más. ¿Cuántas manzanas tiene {n} ahora?",
    "{n}有{v}个苹果，又买了{a}个。{n}现在有多少个苹果？",
)


def main() -> None:
    """Write data, tokenizer and models, each only after what it is made from."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-tokens", type=float, default=5e6, help="number of tokens of plain text")
    parser.add_argument("--solver-tokens", type=float, default=5e6, help="number of tokens of solutions")
    parser.add_argument("--judge-tokens", type=float, default=9e6, help="number of tokens of all three tasks")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="folder of the models")
    parser.add_argument(
        "--first", choices=MODELS, default=MODELS[0], help="first model to make; those before it are read"
    )
    parser.add_argument(
        "--data-only", action="store_true", help="stop after writing the questions and the splits"
    )
    args = parser.parse_args()

    tests = write_splits()
    seeds = write_seed_questions([row for rows in tests.values() for row in rows])
    test = write_test_split(tests["dev"] + seeds)
    write_solved([*seeds, *test, *(row for rows in tests.values() for row in rows)])
    if args.data_only:
        return
    taken = {row["question"] for rows in tests.values() for row in rows}
    todo = MODELS[MODELS.index(args.first) :]
    if "tiny-base" in todo:
        tokenizer = train_tokenizer()
        base = new_model(tokenizer)
        seconds = fit(base, plain_batches(tokenizer, taken), int(args.base_tokens), "tiny-base")
        finish(base, tokenizer, args.models / "tiny-base", tests, seconds)
    if "tiny-solver" in todo:
        tokenizer, solver = load(args.models / "tiny-base")
        solved = task_batches(tokenizer, partial(draw_problem, taken=taken))
        batches = interleaved(solved, plain_batches(tokenizer, taken), 4)
        seconds = fit(solver, batches, int(args.solver_tokens), "tiny-solver")
        finish(solver, tokenizer, args.models / "tiny-solver", tests, seconds)
    tokenizer, judge = load(args.models / "tiny-solver")
    prompts = {path.stem: load_yaml(path)["template"] for path in sorted((HERE / "prompts").glob("*.yaml"))}
    tasks = task_batches(tokenizer, partial(draw_task, taken=taken, prompts=prompts))
    batches = interleaved(tasks, plain_batches(tokenizer, taken, drilled=0.8), 4)
    seconds = fit(judge, batches, int(args.judge_tokens), "tiny-judge")
    finish(judge, tokenizer, args.models / "tiny-judge", tests, seconds)


# -- questions -----------------------------------------------------------------------------------------------


def write_splits() -> dict[str, list[dict[str, Any]]]:
    """Write splits of 1,000 problems: as in training, held-out combinations, one and two more steps."""
    return {
        name: write_split(name, world.problems(random.Random(seed), 1000, steps, held_out=held_out))
        for name, (seed, steps, held_out) in SPLITS.items()
    }


def write_test_split(taken: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write 1,000 more problems like those of `dev`, on which no setting was chosen."""
    questions = {row["question"] for row in taken}
    found = world.problems(random.Random(f"{SEED} fresh"), 1100, TRAIN_STEPS)
    return write_split("test", [problem for problem in found if problem.text not in questions][:1000])


def write_split(name: str, problems: Sequence[world.StoryProblem]) -> list[dict[str, Any]]:
    """Write one benchmark's file, and return its rows."""
    rows = [
        {
            "id": f"tinymath-{name}-{i:04d}",
            "question": problem.text,
            "answer": str(problem.answer),
            "steps": len(problem.kinds),
        }
        for i, problem in enumerate(problems)
    ]
    write_jsonl(SPLITS_FOLDER / f"tinymath_{name}.jsonl.gz", rows)
    return rows


def write_seed_questions(tests: Sequence[dict[str, Any]], count: int = 3000) -> list[dict[str, Any]]:
    """Write the training data of QFT: mostly sound questions, with some foreign, broken and repeated ones."""
    rng = random.Random(f"{SEED} seed questions")
    taken = {row["question"] for row in tests}
    texts: list[str] = []
    while len(texts) < count:
        draw = rng.random()
        if draw < 0.02:
            text = rng.choice(FOREIGN).format(
                n=rng.choice(world.MALE), v=rng.randint(3, 60), a=rng.randint(2, 40)
            )
        elif draw < 0.05:
            text = world.corrupt(rng, rng.choice(world.FAULTS), rng.choice((1, 2)))
        elif draw < 0.07 and texts:
            text = rng.choice(texts)
        else:
            text = world.problem(rng, rng.choice(TRAIN_STEPS)).text
        if text not in taken:
            texts.append(text)
    rows = [{"id": f"seed-{i:05d}", "question": text} for i, text in enumerate(texts)]
    write_jsonl(HERE / "data" / "seed_questions.jsonl.gz", rows)
    return rows


def write_solved(taken: Sequence[dict[str, Any]], count: int = 1500) -> None:
    """Write problems with the world's solutions, from which the study's students learn first."""
    questions = {row["question"] for row in taken}
    found = world.problems(random.Random(f"{SEED} solved"), count + 200, TRAIN_STEPS)
    left = [problem for problem in found if problem.text not in questions][:count]
    rows = [
        {"id": f"solved-{i:05d}", "query": problem.text, "response": problem.solution}
        for i, problem in enumerate(left)
    ]
    write_jsonl(HERE / "data" / "solved.jsonl.gz", rows)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write gzipped JSON lines without a time stamp, so that the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{path.name}: {len(rows)} rows, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")


# -- text for the models -------------------------------------------------------------------------------------


def plain_text(rng: random.Random, taken: set[str]) -> str:
    """Return one document of plain text: language and arithmetic, never a question with its solution."""
    draw = rng.random()
    if draw < 0.45:
        return world.narrative(rng, rng.choice(TRAIN_STEPS))
    if draw < 0.70:
        return world.arithmetic(rng, rng.randint(4, 10))
    if draw < 0.97:
        return unseen(rng, taken).text
    return world.corrupt(rng, rng.choice(world.FAULTS), rng.choice((1, 2, 3)))


def unseen(rng: random.Random, taken: set[str]) -> world.StoryProblem:
    """Return a problem that is not in any test split."""
    while (found := world.problem(rng, rng.choice(TRAIN_STEPS))).text in taken:
        pass
    return found


def train_tokenizer() -> Any:
    """Train a byte-level BPE tokenizer with 1,024 tokens in which every digit is a separate token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(f"{SEED} tokenizer")
    texts = [plain_text(rng, set()) for _ in range(20_000)] + [
        world.problem(rng, 2).solution for _ in range(5_000)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=list(SPECIALS), initial_alphabet=sorted(alphabet)
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    return fast


def plain_batches(
    tokenizer: Any, taken: set[str], rows: int = 8, length: int = 256, drilled: float = 0.0
) -> Iterator[tuple[Any, Any]]:
    """Yield documents joined and cut into rows, with loss on every token.

    A share `drilled` of the documents are drills of `tinymath.lessons`.
    """
    import torch

    rng = random.Random(f"{SEED} plain")
    stream: list[int] = []
    while True:
        while len(stream) < rows * length:
            texts = [
                lessons.drills(rng, rng.randint(4, 10))
                if drilled and rng.random() < drilled
                else plain_text(rng, taken)
                for _ in range(200)
            ]
            texts = [f"<s>{text}<|end|>" for text in texts]
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                stream.extend(ids)
        batch = torch.tensor(stream[: rows * length]).view(rows, length)
        stream = stream[rows * length :]
        yield batch, batch


Draw = Callable[[random.Random], tuple[str, str]]


def draw_problem(rng: random.Random, taken: set[str]) -> tuple[str, str]:
    """Draw a question to solve: the user's turn and the reply."""
    story = unseen(rng, taken)
    return story.text, story.solution


def draw_task(rng: random.Random, taken: set[str], prompts: Mapping[str, str]) -> tuple[str, str]:
    """Draw a question to solve, to judge or to rewrite: the user's turn and the reply."""
    draw = rng.random()
    if draw < 0.3:
        return draw_problem(rng, taken)
    while True:
        if draw < 0.74:
            name, lesson = "judge", lessons.judging(rng, TRAIN_STEPS)
        elif draw < 0.87:
            name, lesson = "solvability", lessons.rewriting(rng, "solvability", TRAIN_STEPS)
        else:
            name, lesson = "difficulty", lessons.rewriting(rng, "difficulty", (1, 2))
        if lesson.question not in taken and lesson.reply.partition(lessons.MARKER)[2].strip() not in taken:
            return prompts[name].format(question=lesson.question), lesson.reply


def task_batches(tokenizer: Any, draw: Draw, tokens: int = 2048) -> Iterator[tuple[Any, Any]]:
    """Yield tasks with their replies, padded in rows of similar length, with loss on replies only."""
    import torch

    rng = random.Random(f"{SEED} solutions")
    pad = tokenizer.pad_token_id
    while True:
        found = [draw(rng) for _ in range(1024)]
        asked = tokenizer(
            [f"<s><|user|>{text}<|end|><|assistant|>" for text, _ in found], add_special_tokens=False
        )
        targets = tokenizer([reply + "<|end|>" for _, reply in found], add_special_tokens=False)
        rows = sorted(
            zip(asked["input_ids"], targets["input_ids"], strict=True), key=lambda r: len(r[0]) + len(r[1])
        )
        batches, batch, longest = [], [], 0
        for prompt, target in rows:
            longest = max(longest, len(prompt) + len(target))
            if batch and longest * (len(batch) + 1) > tokens:
                batches.append(batch)
                batch, longest = [], len(prompt) + len(target)
            batch.append((prompt, target))
        rng.shuffle(batches)  # the short remainder is dropped, because new problems never run out
        for batch in batches:
            width = max(len(p) + len(t) for p, t in batch)
            ids = [p + t + [pad] * (width - len(p) - len(t)) for p, t in batch]
            labels = [[-100] * len(p) + t + [-100] * (width - len(p) - len(t)) for p, t in batch]
            yield torch.tensor(ids), torch.tensor(labels)


def interleaved(most: Iterator[Any], rest: Iterator[Any], every: int) -> Iterator[Any]:
    """Yield batches from `most`, with every `every`-th one from `rest`."""
    return (next(rest if number % every == 0 else most) for number in itertools.count(1))


# -- models --------------------------------------------------------------------------------------------------


def new_model(tokenizer: Any) -> Any:
    """Make a Llama with 3.4 million parameters; vLLM's CPU attention supports its head size of 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def fit(
    model: Any, batches: Iterator[tuple[Any, Any]], tokens: int, label: str, peak: float = 1.5e-3
) -> float:
    """Train with AdamW, a short warm-up and linear decay to zero over a token budget. Return the seconds."""
    import torch

    bf16 = not native(cpu=True).emulates_bf16
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    seen, step, started, running = 0, 0, time.monotonic(), 0.0
    while seen < tokens:
        ids, labels = next(batches)
        rate = peak * min(1.0, (step + 1) / 60) * (1 - seen / tokens)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seen, step, running = seen + ids.numel(), step + 1, running + loss.item()
        if step % 50 == 0 or step == 10:
            spent = time.monotonic() - started
            eta = spent / seen * (tokens - seen)
            loss_now = running / min(step, 50)
            print(
                f"{label}: {seen:>9,} tokens, loss {loss_now:.3f}, {seen / spent:,.0f}/s, {eta:.0f} s left",
                flush=True,
            )
            running = 0.0
    return time.monotonic() - started


def load(folder: Path) -> tuple[Any, Any]:
    """Load the tokenizer and the model of a folder, with the model in float32 for further training."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True
    )


def finish(
    model: Any, tokenizer: Any, folder: Path, tests: dict[str, list[dict[str, Any]]], seconds: float
) -> None:
    """Save a trained model, and print how well it solves."""
    save(model, tokenizer, folder)
    report(folder.name, model, tokenizer, tests, seconds)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save the model in bfloat16 and the tokenizer, in the form for `from_pretrained`."""
    import copy

    import torch

    small = copy.deepcopy(model).to(torch.bfloat16)
    small.generation_config.eos_token_id = tokenizer.eos_token_id
    small.generation_config.pad_token_id = tokenizer.pad_token_id
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    print(f"{folder.name}: {weights.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


def report(
    label: str, model: Any, tokenizer: Any, tests: dict[str, list[dict[str, Any]]], seconds: float
) -> None:
    """Print the greedy accuracy on 300 questions of each split; the boxed number must be the answer."""
    import re

    import torch

    model.eval()
    tokenizer.padding_side = "left"
    for split, rows in tests.items():
        right = 0
        for start in range(0, 300, 100):
            chunk = rows[start : start + 100]
            prompts = [f"<s><|user|>{row['question']}<|end|><|assistant|>" for row in chunk]
            inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
            with torch.no_grad():
                out = model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    do_sample=False,
                    max_new_tokens=120,
                    eos_token_id=tokenizer.eos_token_id,
                )
            texts = tokenizer.decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for row, text in zip(chunk, texts, strict=True):
                boxed = re.findall(r"\\boxed\{(\d+)\}", text)
                right += bool(boxed) and boxed[-1] == row["answer"]
        print(f"{label} after {seconds:.0f} s: {split} {right / 3:.1f} %", flush=True)


if __name__ == "__main__":
    main()
