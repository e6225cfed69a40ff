"""Prepare a training run: its rows as token ids, in a folder next to the model."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalequest import heartbeat
from scalequest.config import fingerprint_fields
from scalequest.records import Row, quota, read_inputs
from scalequest.training import data
from scalequest.training.identity import Identity
from scalequest.training.ranks import once
from scalequest.training.stage import Rendering

log = logging.getLogger(__name__)

PREPARED = "prepared"


@dataclass(frozen=True)
class Prepared:
    """Rows as token ids, made by `prepare`.

    Attributes:
        identity: the identity of the run.
        folder: the folder for `data.load`.
        counts: how the rows were used.
    """

    identity: Identity
    folder: Path
    counts: data.Counts


def prepare(identity: Identity) -> Prepared:
    """Tokenise the inputs, unless an earlier start of the same run has done so. All ranks must call this.

    Raises:
        ConfigError: a row lacks a column, or no rows are left to train on.
    """
    rendering = identity.stage.rendering_of(identity)
    folder = _folder_of(identity, rendering)
    once(identity.training_args, lambda: _render(identity, rendering, folder))
    prepared = Prepared(identity, folder, data.counts_of(folder))
    heartbeat.now(f"loading {identity.model}")
    if identity.main:
        _say(prepared)
    return prepared


def read_rows(identity: Identity, needs: Sequence[str]) -> list[Row]:
    """Return the input rows in order: all of them, or the number set in `draw`.

    Raises:
        ConfigError: a row lacks one of the columns in `needs`, or there are fewer rows than `draw`.
    """
    args = identity.args
    return draw_rows(identity, read_inputs(args.input, *needs, columns=args.columns, limit=args.limit))


def draw_rows(identity: Identity, rows: list[Row]) -> list[Row]:
    """Return as many of these rows as `draw` says, in order; all of them if it is not set.

    Raises:
        ConfigError: there are fewer rows, and no limit is why.
    """
    draw = identity.args.draw
    if draw is None:
        return rows
    taken = quota(draw, len(rows), "draw", limit=identity.args.limit)
    numbers = random.Random(identity.training_args.seed).sample(range(len(rows)), taken)
    return [rows[number] for number in sorted(numbers)]


def _folder_of(identity: Identity, rendering: Rendering) -> Path:
    """Return the folder for these rows, named after everything that determines them."""
    made_of = [
        identity.name,
        identity.stage.version,
        list(identity.inputs.values()),
        fingerprint_fields(identity.args),
        dict(rendering.choices),
        identity.fingerprint["chat_format"],
        identity.fingerprint["model"],
        identity.training_args.seed,
    ]
    key = json.dumps(made_of, sort_keys=True)
    return identity.folder / PREPARED / hashlib.sha256(key.encode()).hexdigest()[:16]


def _render(identity: Identity, rendering: Rendering, folder: Path) -> None:
    if not (folder / "counts.json").is_file():
        data.prepare(
            folder,
            rendering.rows() if rendering.rows else read_rows(identity, rendering.needs),
            rendering.render,
            identity.chat,
            holdout=identity.args.holdout,
            tokens=identity.args.draw_tokens,
            limit=identity.args.limit,
            seed=identity.training_args.seed,
        )


def _say(prepared: Prepared) -> None:
    name, counts = prepared.identity.name, prepared.counts
    first = data.load(prepared.folder)[0][0]
    log.info(
        "%s: %d rows in, %d to train on (%d tokens, %d with loss), %d held out, dropped %s",
        name, counts.rows_in, counts.train, counts.tokens, counts.targets, counts.holdout,
        counts.dropped or "none",
    )  # fmt: skip
    log.info("%s: first row, ⟦no loss⟧:\n%s", name, data.shown(first, prepared.identity.chat))
