"""Convert rows to token ids, once, in the main process, stored next to the model as Arrow files.

Nothing is truncated here: a row whose ids do not fit is dropped and counted. TRL gets token ids and never
text, so every version of TRL trains the model on exactly what `chat/formats.py` encodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalequest import heartbeat
from scalequest.chat import BoundFormat, FormatError, split_thoughts
from scalequest.config import ConfigError
from scalequest.records import Row, row_seed

if TYPE_CHECKING:
    from datasets import Dataset

Ids = dict[str, Any]  # lists of token ids; for a scorer, also one float
Render = Callable[[Row, BoundFormat], Ids]

IGNORED = -100  # the label of tokens without loss
NOT_DRAWN = "not_drawn"  # the reason of rows beyond `draw_tokens`
_AT_A_TIME = 500  # rows


class DoesNotFit(ValueError):
    """A target exceeds the maximum length."""


class SidesEqual(ValueError):
    """A pair without a preference: both sides have the same words or the same token ids."""


@dataclass(frozen=True)
class Counts:
    """How the rows were used: `rows_in == train + holdout + sum(dropped.values())`.

    Attributes:
        rows_in: the number of rows read.
        train: the number of rows to train on.
        holdout: the number of rows held out for evaluation.
        dropped: the number of dropped rows by reason.
        tokens: the number of tokens in the training rows, prompts included (of both sides of a pair).
        targets: how many of these tokens have loss.
    """

    rows_in: int
    train: int
    holdout: int
    dropped: dict[str, int]
    tokens: int
    targets: int


def question(row: Row, chat: BoundFormat, *, max_length: int | None, repeat_eos: bool = False) -> Ids:
    """Render a question for QFT: every token is a target, including the header (ScaleQuest, section 2.2).

    Args:
        row: a row with `question`.
        chat: the model's chat format.
        max_length: the maximum sequence length in tokens; None for no limit.
        repeat_eos: add a second EOS, as the authors' packing did.
    """
    ids = chat.question_ids(row["question"])
    if repeat_eos:
        ids = [*ids, chat.eos_id]
    return _fitting({"input_ids": ids, "labels": list(ids)}, len(ids), max_length)


def solution(row: Row, chat: BoundFormat, *, max_length: int | None, strip_thoughts: bool = False) -> Ids:
    """Render a question (`query`) and its `response` for SFT; the prompt carries no loss.

    Args:
        row: has `query` and `response`.
        chat: format of the model.
        max_length: longest sequence in tokens; None is no limit.
        strip_thoughts: leave out the thoughts at the head of the response.

    Raises:
        FormatError: the format cannot hold a text, or thoughts are not closed.
        DoesNotFit: it is too long.
    """
    response = split_thoughts(row["response"])[1] if strip_thoughts else row["response"]
    prompt, target = chat.solve_ids(row["query"], response)
    ids = [*prompt, *target]
    return _fitting({"input_ids": ids, "labels": [IGNORED] * len(prompt) + target}, len(ids), max_length)


def preference(row: Row, chat: BoundFormat, *, max_length: int | None, swap_seed: int | None = None) -> Ids:
    """Render a preference row for DPO: the prompt is the generation prefix, the completions are questions.

    Args:
        row: a row with `id`, `chosen` and `rejected`.
        chat: the model's chat format.
        max_length: the maximum sequence length in tokens, prompt included.
        swap_seed: swap the two sides of about half of the rows, depending on this seed and the row id: a
            control that must teach nothing.

    Raises:
        SidesEqual: both sides have the same words or the same ids, so the loss would be constant.
        DoesNotFit: one side is too long.
    """
    sides = [row["chosen"], row["rejected"]]
    if swap_seed is not None and row_seed(swap_seed, "shuffle_pairs", row["id"]) % 2:
        sides.reverse()
    prefix = chat.question_prefix_ids
    chosen, rejected = (chat.question_ids(side) for side in sides)
    if chosen == rejected or sides[0].split() == sides[1].split():
        raise SidesEqual
    ids = {
        "prompt_ids": list(prefix),
        "chosen_ids": chosen[len(prefix) :],
        "rejected_ids": rejected[len(prefix) :],
    }
    return _fitting(ids, max(len(chosen), len(rejected)), max_length)


def prepare(
    folder: Path,
    rows: Sequence[Row],
    render: Render,
    chat: BoundFormat,
    *,
    holdout: int = 0,
    tokens: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Counts:
    """Render `rows` and write `rows.arrow`, `split.json`, `dropped.jsonl` and `counts.json`.

    The folder is written atomically. Held-out rows are drawn from those that fit, and then, if `tokens` is
    given, the rows to train on from the others.

    Args:
        folder: the output folder; if it exists and is complete, it is used as it is.
        rows: rows with an `id` and the columns that `render` needs.
        render: one of the functions above, with all arguments except row and format bound.
        chat: the model's chat format.
        holdout: the number of rows to hold out.
        tokens: draw rows to train on until they have at least so many tokens; None takes all rows.
        limit: the number of rows that were read at most, which excuses too few tokens.
        seed: the seed for both draws.

    Raises:
        ConfigError: no rows are left to train on, or they have fewer than `tokens` tokens.
    """
    if (folder / "counts.json").is_file():
        return counts_of(folder)
    tmp = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    # Token ids
    sizes, dropped = _write_rows(tmp, rows, render, chat)
    if len(sizes) <= holdout:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common()) or "none"
        raise ConfigError(
            f"input: {len(sizes)} of {len(rows)} rows are usable, and holdout takes {holdout} "
            f"of them: nothing is left to train on (dropped: {reasons})"
        )
    # What is held out, what is trained on, and counts
    held = sorted(random.Random(seed).sample(range(len(sizes)), holdout))
    train = sorted(set(range(len(sizes))) - set(held))
    if tokens is not None:
        train = _draw_tokens(sizes, train, tokens, limit, seed)
        if left_out := len(sizes) - len(held) - len(train):
            dropped[NOT_DRAWN] = left_out
    (tmp / "split.json").write_text(json.dumps({"train": train, "held_out": held}))
    columns = zip(*(sizes[number] for number in train), strict=True)
    counts = Counts(len(rows), len(train), holdout, dict(dropped), *map(sum, columns))
    (tmp / "counts.json").write_text(json.dumps(asdict(counts)) + "\n")
    # Make everything visible at once
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(tmp, folder)
    return counts


def _draw_tokens(
    sizes: Sequence[tuple[int, int]], numbers: Sequence[int], tokens: int, limit: int | None, seed: int
) -> list[int]:
    """Return the row numbers, in order, of a random draw that ends with the row that reaches `tokens`."""
    there = sum(sizes[number][0] for number in numbers)
    if there < tokens and limit is None:
        raise ConfigError(
            f"draw_tokens asks for {tokens:,} tokens, and the rows have {there:,}: take that many or fewer"
        )
    drawn, left = list[int](), tokens
    for number in random.Random(seed).sample(numbers, len(numbers)):
        if left <= 0:
            break
        drawn.append(number)
        left -= sizes[number][0]
    return sorted(drawn)


def _write_rows(
    folder: Path, rows: Sequence[Row], render: Render, chat: BoundFormat
) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Write `rows.arrow` and `dropped.jsonl`.

    Returns:
        The number of tokens and of tokens with loss for each kept row, and the number of dropped rows by
        reason.
    """
    import pyarrow as pa

    sizes: list[tuple[int, int]] = []
    dropped: Counter[str] = Counter()
    with contextlib.ExitStack() as files:
        work = files.enter_context(heartbeat.doing("tokenising", total=len(rows)))
        losses = files.enter_context((folder / "dropped.jsonl").open("w"))
        writer = None
        for made in _render_all(rows, render, chat):
            work.done += len(made)
            kept = [ids for _, ids in made if not isinstance(ids, str)]
            for row, reason in made:
                if isinstance(reason, str):
                    dropped[reason] += 1
                    losses.write(json.dumps({"id": row["id"], "reason": reason}) + "\n")
            if kept:
                batch = pa.RecordBatch.from_pylist(kept)
                if writer is None:
                    stream = pa.ipc.new_stream(str(folder / "rows.arrow"), batch.schema)
                    writer = files.enter_context(stream)
                writer.write_batch(batch)
            sizes += [(_tokens(ids), _targets(ids)) for ids in kept]
    return sizes, dropped


def counts_of(folder: Path) -> Counts:
    """Return the counts written by `prepare`."""
    return Counts(**json.loads((folder / "counts.json").read_text(encoding="utf-8")))


def load(folder: Path) -> tuple[Dataset, Dataset | None]:
    """Return training rows and held-out rows, memory-mapped, with the columns of the render function."""
    from datasets import Dataset

    rows = Dataset.from_file(str(folder / "rows.arrow"))
    split = json.loads((folder / "split.json").read_text())
    train = rows if len(split["train"]) == len(rows) else rows.select(split["train"])
    return train, rows.select(split["held_out"]) if split["held_out"] else None


def shown(ids: Mapping[str, Any], chat: BoundFormat) -> str:
    """Return a training example as text with special tokens; parts without loss are in ⟦double brackets⟧."""
    decode = partial(chat.tokenizer.decode, skip_special_tokens=False)
    if "chosen_ids" in ids:
        prompt = decode(ids["prompt_ids"])
        return "\n".join(f"{side}: ⟦{prompt}⟧{decode(ids[f'{side}_ids'])}" for side in ("chosen", "rejected"))
    if "labels" not in ids:
        return f"⟦{decode(ids['prompt_ids'])}⟧"
    if not isinstance(ids["labels"], list):
        return f"{ids['labels']:.3f}: {decode(ids['input_ids'])}"
    masked = next((n for n, label in enumerate(ids["labels"]) if label != IGNORED), len(ids["labels"]))
    head = f"⟦{decode(ids['input_ids'][:masked])}⟧" if masked else ""
    return head + str(decode(ids["input_ids"][masked:]))


def _fitting(ids: Ids, length: int, max_length: int | None) -> Ids:
    if max_length is not None and length > max_length:
        raise DoesNotFit
    return ids


def _tokens(ids: Ids) -> int:
    if "input_ids" in ids:
        return len(ids["input_ids"])
    if "chosen_ids" not in ids:
        return len(ids["prompt_ids"])
    return 2 * len(ids["prompt_ids"]) + len(ids["chosen_ids"]) + len(ids["rejected_ids"])


def _targets(ids: Ids) -> int:
    if not isinstance(ids.get("labels", []), list):
        return 1  # the target is a number, not text
    if "labels" in ids:
        return len(ids["labels"]) - int(ids["labels"].count(IGNORED))
    return len(ids.get("chosen_ids", ())) + len(ids.get("rejected_ids", ()))


def _try(row: Row, render: Render, chat: BoundFormat) -> Ids | str:
    """Return the ids, or the reason why there are none."""
    try:
        return render(row, chat)
    except DoesNotFit:
        return "too_long"
    except SidesEqual:
        return "equal_sides"
    except FormatError as error:
        return str(error)  # one of four reasons


def _render_all(
    rows: Sequence[Row], render: Render, chat: BoundFormat
) -> Iterator[list[tuple[Row, Ids | str]]]:
    """Yield rows in order, some at a time, each with its ids or the reason why it has none.

    Tokenisers release the interpreter lock while they work, so threads are enough to use all cores.
    """

    def some(first: int) -> list[tuple[Row, Ids | str]]:
        return [(row, _try(row, render, chat)) for row in rows[first : first + _AT_A_TIME]]

    workers = max(1, min(os.cpu_count() or 1, 16))  # Python's own work would leave more threads idle
    ahead: deque[Future[list[tuple[Row, Ids | str]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(rows), _AT_A_TIME):
            ahead.append(pool.submit(some, first))
            if len(ahead) > 2 * workers:  # keep only what is being worked on in memory
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
