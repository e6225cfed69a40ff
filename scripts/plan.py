"""What an experiment takes on a cluster, stage by stage: memory, tokens, GPU-hours, hours, disk and price.

    python scripts/plan.py                                    # the paper's experiment on two clusters
    python scripts/plan.py --pipelines recipes/qwen2_math_7b/from_generators.yaml --clusters 16xH100 --price 3
    python scripts/plan.py --clusters 8xA100-40G --rate runs/qwen2_math_7b/solve_questions/receipt.json

A pipeline file is read with its variables, as recipes/run.py reads it; nothing is run. Rows go from stage to
stage: a filter keeps the share that the paper kept, a slice takes its number. Sampling and scoring are
computed from first principles (scalequest/inference_cost.py: FLOPs, memory bandwidth, the batch that the
keys and values leave room for), training by scalequest/estimate.py; the arithmetic is printed. On A100-40G
the paper's own run is computed likewise and stands beside its table 4. With `--rate FILE`, the receipt of a
short run of your own on one such GPU a worker takes the place of the estimate for its stage: the better plan.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from glob import glob
from importlib.resources import files
from pathlib import Path
from typing import Any

from scalequest import estimate, inference_cost
from scalequest.config import ConfigError, option, read_configs, read_facts, read_yaml
from scalequest.config.bounded_yaml import load as load_yaml
from scalequest.config.ranges import NOT_NEGATIVE, POSITIVE, SHARE_ABOVE_0
from scalequest.estimate import DEVICES, GIB, START_SECONDS, Architecture, Device
from scalequest.inference_cost import VLLM_2024, VLLM_TODAY, Cost, Efficiency, Engine
from scalequest.pipeline.runner import Step, load
from scalequest.pipeline.runner import plan as read_steps
from scalequest.recipe import Recipe, load_recipe, run_recipe
from scalequest.records import first_rows

RECIPES = Path(__file__).parents[1] / "recipes"

# The paper's table 4: rows and GPU-hours on A100-40G, and why an estimate of a line may be off.
PAPER: dict[str, tuple[int, float, str]] = {
    "QFT": (29_946, 3.9, "two short runs; what the paper counts beside training is not said"),
    "questions for QPO": (20_000, 0.4, "start-up is most of ours: four minutes for each of two models"),
    "QPO": (20_000, 6.6, "our padded batches are as long as their questions (134 tokens per pair, table 4 "
            "does not say); the authors load policy and reference whole on every rank before they train"),
    "question generation": (
        2_000_000, 38.4, "the paper's line is 870 tokens per second and GPU at the kept questions' length, "
        "its responses are 2,240 with the same engine: the raw questions, up to 1,024 tokens in their code, "
        "must be longer than those that were kept, and their lengths are not published"),
    "solvability and difficulty": (
        2_000_000, 110.6, "the length of the judge's replies is not published and taken to be a response's; "
        "only what the language filter leaves is judged here (the authors' order)"),
    "responses": (
        5_000_000, 251.0, "lengths are those of the published best of five; the others' are not known. Five "
        "requests per question, each with its own prompt, as in the authors' code"),
    "reward scores": (5_000_000, 112.0, "one pair per pass, as in the authors' code"),
}  # fmt: skip
# Shares that the paper's filters keep (App. B: 20.1, 19.4 and 9.2 % of all were dropped, one after the other;
# the last from one generator's half alone).
KEPT = {
    "language": 1 - 0.201,
    "solvability": 1 - 0.194 / (1 - 0.201),
    "difficulty": 1 - 0.184 / (1 - 0.201 - 0.194),
}
REWRITE_DOLLARS = 6.2 / 20_000  # per question, by GPT-4o-mini, table 4
BATCHED_TOKENS = 8192  # of one pass, vLLM's default for offline use
AUTHORS_BATCH = 10_000  # rows of one call of the engine in their vllm_gen.py


@dataclass(frozen=True)
class PlanConfig:
    """What is planned."""

    pipelines: list[str] = option(help="pipeline files, read one after the other", default_factory=list)
    profiles: list[str] = option(
        help="without pipelines: folders under recipes/ whose pipeline.yaml is taken",
        default_factory=lambda: ["qwen2_math_7b", "deepseek_math_7b"],
    )
    variables: dict[str, str] = option(
        help="of the pipelines, over their files': as --set of recipes/run.py", default_factory=dict
    )
    clusters: list[str] = option(
        help="machines: number x GPU", default_factory=lambda: ["8xA100-40G", "64xH100"]
    )
    question_tokens: float = option(
        60.0, "mean tokens per question: 195 characters (docs/method.md 8) at 3.3 per token", within=POSITIVE
    )
    solution_tokens: float = option(
        405.0, "mean tokens per response: 1,214 characters at 3 per token", within=POSITIVE
    )
    prompt_tokens: float = option(40.0, "chat markup and instruction around a question", within=NOT_NEGATIVE)
    characters: list[float] = option(
        help="mean characters per question and per response",
        default_factory=lambda: [195.0, 1214.0],
        within=POSITIVE,
    )
    efficiency: float = option(
        0.9, "of more than eight GPUs against eight: stragglers, restarts", within=SHARE_ABOVE_0
    )
    price: float | None = option(
        None, "dollars per GPU-hour; None is the paper's on A100-40G, and no price elsewhere", within=POSITIVE
    )
    rate: list[str] = option(help="receipts of your own runs, one GPU each", default_factory=list)


@dataclass(frozen=True)
class Rows:
    """What a stage writes, or a file holds: questions, and solutions for each."""

    questions: float
    samples: int = 1


@dataclass(frozen=True)
class Stage:
    """One stage of an experiment, before a cluster is chosen.

    Attributes:
        name: pipeline and stage.
        kind: name of its recipe; empty if it has none.
        settings: its files and its arguments.
        configs: its files.
        launch: its accelerate file.
        rows: that it reads.
        made: that it writes.
        model: that it runs or trains, by the name whose sizes are known; empty if it needs none.
        line: of the paper's table 4 that it is part of; empty if of none.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    configs: tuple[str, ...]
    launch: str | None
    rows: Rows
    made: Rows
    model: str = ""
    line: str = ""


@dataclass(frozen=True)
class Line:
    """A stage on a cluster: tokens, bytes on disk, GPU-hours, and what memory and arithmetic come to."""

    stage: Stage
    read: float = 0.0
    written: float = 0.0
    disk: float = 0.0
    hours: float = 0.0
    gpus: int = 0
    memory: str = ""
    arithmetic: str = ""
    changes: list[str] = field(default_factory=list)
    dollars: float = 0.0


# ------------------------------------------------------------------------------------------------ the stages


def stages_of(config: PlanConfig) -> list[Stage]:
    """The stages of all pipelines, with the rows that go through them.

    Raises:
        ConfigError: a pipeline cannot be read.
    """
    pipelines = config.pipelines or [str(RECIPES / name / "pipeline.yaml") for name in config.profiles]
    steps = []
    for file in pipelines:
        spec = load(file, config.variables) if config.variables else load(file)
        steps += [(spec.name, step) for step in read_steps(spec, Path("runs") / spec.name, source=file)]
    settings = [{**read_configs(*step.spec.configs), **_typed(step.settings)} for _, step in steps]
    made: dict[str, Rows] = {}
    models: dict[str, str] = {}
    readers = {source: _kind(step) for (_, step), one in zip(steps, settings, strict=True)
               for source, _ in _sources(one)}  # fmt: skip
    found = []
    for (pipeline, step), one in zip(steps, settings, strict=True):
        kind, folder = _kind(step), str(one.get("output_dir", ""))
        evaluated = next(iter((one.get("models") or {}).values()), "")
        model = str(one.get("model_name_or_path") or evaluated)
        model = models.get(model, model)
        rows = _read(kind, one, step, made)
        stage = Stage(
            f"{pipeline}: {step.spec.name}" if len(pipelines) > 1 else step.spec.name,
            kind, one, step.spec.configs, step.spec.launch, rows, _written(kind, one, rows), model,
            _line(kind, one, readers.get(folder, "")),
        )  # fmt: skip
        made[folder], models[folder] = stage.made, model
        found.append(stage)
    return found


def _typed(value: Any) -> Any:
    """Arguments as the command line reads them: a variable's number is a text, and so is a map in a list."""
    if isinstance(value, Mapping):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, str) and (value.startswith("{") or value in ("null", "true", "false")):
        return _typed(load_yaml(value))
    if isinstance(value, str):
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(value)
    return value


def _kind(step: Step) -> str:
    recipe = load_recipe(step.spec.script) if step.spec.configs else None
    return recipe.name if recipe is not None else ""


def _sources(settings: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """The sources that a stage reads, and how many rows of each."""
    for text in settings.get("input") or []:
        source, number = first_rows(str(text))
        yield str(source), number
    for part in settings.get("parts") or []:
        yield str(part["source"]), part.get("rows")


def _read(kind: str, settings: Mapping[str, Any], step: Step, made: Mapping[str, Rows]) -> Rows:
    if kind == "generate_questions":
        return Rows(settings["num_questions"])
    known = [_rows_of(source, number, made) for source, number in _sources(settings)]
    if known and None not in known:
        rows = [one for one in known if one is not None]
        total = Rows(sum(one.questions for one in rows), max(one.samples for one in rows))
    else:
        total = Rows(read_facts(*step.spec.configs).rows or 0 if step.spec.configs else 0)
    if kind == "evaluate":
        total = Rows(_problems(settings) * len(settings.get("models") or {}))
    limit = settings.get("limit")
    return replace(total, questions=min(total.questions, limit)) if limit else total


def _rows_of(source: str, number: int | None, made: Mapping[str, Rows]) -> Rows | None:
    if source in made:
        rows = made[source]
        return replace(rows, questions=min(rows.questions, number or rows.questions))
    if number:
        return Rows(number)
    count = _prepared().get(Path(source).name.partition(".")[0])
    return Rows(count) if count else None


@cache
def _prepared() -> dict[str, int]:
    """Rows of the files that scripts/prepare_data.py makes, by their names."""
    known = read_yaml(str(files("scalequest.data") / "sources.yaml"))["sets"]
    return {one["name"]: one["rows"] for one in known if "rows" in one}


def _problems(settings: Mapping[str, Any]) -> int:
    found = {file for pattern in settings.get("benchmarks") or [] for file in glob(pattern)}
    return sum(read_yaml(file).get("rows") or 0 for file in sorted(found))


def _written(kind: str, settings: Mapping[str, Any], rows: Rows) -> Rows:
    if kind == "filter_questions":
        return Rows(rows.questions * _kept(settings, rows.questions), rows.samples)
    if kind == "solve_questions":
        return Rows(rows.questions, int(settings.get("samples", 5)))
    if kind == "select_solutions":
        return Rows(rows.questions)
    return rows


def _kept(settings: Mapping[str, Any], questions: float) -> float:
    """The share of its questions that a filter keeps."""
    kept = 1.0
    for step in settings["steps"]:
        rule = settings.get(step) or {}
        if step == "difficulty" and rule.get("keep"):
            kept = min(kept, rule["keep"] / questions if questions else 1.0)
        elif step == "difficulty" and rule.get("columns"):
            kept *= 1 - rule.get("drop_easiest", 0.0) - rule.get("drop_hardest", 0.0)
        else:
            kept *= KEPT.get(step, 1.0)
    return kept


def _line(kind: str, settings: Mapping[str, Any], reader: str) -> str:
    """The line of table 4 that a stage is part of; sampling for the difficulty scorer is part of none."""
    if kind == "generate_questions":
        return "questions for QPO" if reader == "optimize_questions" else "question generation"
    if kind == "solve_questions":
        return "" if reader == "difficulty" else "responses"
    if kind == "score":
        return "solvability and difficulty" if settings.get("what") == "question" else "reward scores"
    return {"qft": "QFT", "qpo": "QPO", "filter_questions": "solvability and difficulty"}.get(kind, "")


# -------------------------------------------------------------------------------------- a stage on a cluster


def line_of(
    stage: Stage, config: PlanConfig, device: Device, gpus: int, shares: Efficiency = VLLM_TODAY
) -> Line:
    """A stage's memory, tokens, disk and GPU-hours.

    Args:
        stage: the stage.
        config: lengths.
        device: each of the GPUs.
        gpus: their number.
        shares: what the engine reaches. With any but today's the stage is computed as the paper's authors
            ran it: no shared prompts, calls that are waited for, one pair per pass.
    """
    authors = shares is not VLLM_TODAY
    recipe = _training_recipe(stage)
    if recipe is not None:
        return _training_line(stage, recipe, device, gpus)
    line = Line(stage, disk=_disk(stage, config))
    if stage.kind == "optimize_questions" and stage.settings.get("rewriter") == "server":
        return replace(line, dollars=stage.rows.questions * REWRITE_DOLLARS, memory="a server's")
    if not stage.model or not _asks(stage):
        return replace(line, memory="no GPU" if stage.kind else "")
    engine = _engine(stage, device)
    if isinstance(engine, str):
        return replace(line, memory=engine)
    held = engine.weights / engine.gpus / GIB
    if not engine.fits:
        memory = f"{held:.0f} + {engine.length * engine.token / engine.gpus / GIB:.1f} GiB: DOES NOT FIT"
        return replace(line, memory=memory, changes=inference_cost.changes(engine, DEVICES))
    cost = _cost(stage, config, engine, shares, authors)
    start = START_SECONDS * gpus / 3600
    return replace(
        line, read=cost.read, written=cost.written, hours=cost.hours + start, gpus=gpus,
        memory=f"{held:.0f} + {engine.room / engine.gpus / GIB:.0f} of {device.memory:.0f} GiB",
        arithmetic=_arithmetic(engine, cost, start, shares),
    )  # fmt: skip


def _training_recipe(stage: Stage) -> Recipe | None:
    script = RECIPES / f"{stage.kind}.py"
    recipe = load_recipe(script) if stage.kind and script.is_file() else None
    return recipe if recipe is not None and recipe.kind == "training" else None


def _asks(stage: Stage) -> bool:
    steps = stage.settings.get("steps")
    by_columns = bool((stage.settings.get("difficulty") or {}).get("columns"))
    return steps is None or "solvability" in steps or ("difficulty" in steps and not by_columns)


def _engine(stage: Stage, device: Device) -> Engine | str:
    """The engine of a stage, or why its size is not known."""
    model = architecture(stage.model)
    if model is None:
        return f"sizes of {stage.model} not known"
    given = stage.settings.get("engine") or {}
    return Engine(
        model, device, int(given.get("tensor_parallel_size", 1)), int(given.get("max_model_len") or 4096),
        float(given.get("gpu_memory_utilization", 0.92)), given.get("max_num_seqs"), stage.kind != "score",
    )  # fmt: skip


def architecture(model: str) -> Architecture | None:
    """A model's sizes: from its folder's config.json, or from recipes/architectures.yaml."""
    names = Architecture.__dataclass_fields__
    file = Path(model).expanduser() / "config.json"
    sizes = (
        json.loads(file.read_bytes())
        if file.is_file()
        else read_yaml(RECIPES / "architectures.yaml").get(model)
    )
    if not sizes or "num_hidden_layers" not in sizes:
        return None
    return Architecture(**{name: value for name, value in sizes.items() if name in names})


def _cost(stage: Stage, config: PlanConfig, engine: Engine, shares: Efficiency, authors: bool) -> Cost:
    asked, rows = config.question_tokens + config.prompt_tokens, stage.rows.questions
    limit = int((stage.settings.get("sampling") or {}).get("max_tokens") or 2048)
    more: dict[str, Any] = {"batch": AUTHORS_BATCH, "limit": limit} if authors else {}
    samples, output, cached = 1, config.solution_tokens, 0.0
    if stage.kind == "score":
        what = stage.settings.get("what", "responses")
        tokens = config.question_tokens + (config.solution_tokens + config.prompt_tokens / 2) * (
            what != "question"
        )
        together = 1 if authors else int(max(1, BATCHED_TOKENS // tokens))
        return inference_cost.scoring_cost(
            engine, rows * stage.rows.samples, tokens, shares, together=together
        )
    if stage.kind == "generate_questions":
        asked, output, cached = config.prompt_tokens, config.question_tokens, config.prompt_tokens - 1
    elif stage.kind == "filter_questions":
        steps = stage.settings["steps"]
        for step in steps[: steps.index("solvability") if "solvability" in steps else -1]:
            rows *= KEPT.get(step, 1.0)
        if (stage.settings.get("solvability") or {}).get(
            "judge", "model"
        ) == "model" and "solvability" in steps:
            judge = _prompt_tokens((stage.settings.get("solvability") or {}).get("prompt"))
            asked, cached = asked + judge, 0.0 if authors else judge
        else:
            samples = int(stage.settings.get("samples", 5))
    elif stage.kind == "optimize_questions":  # a solution or a plan, and the question again
        prompts = (stage.settings.get("prompts") or {}).values()
        rewrite = sum(map(_prompt_tokens, prompts)) / max(len(prompts), 1)
        asked, output, cached = asked + rewrite, output + 2 * config.question_tokens, rewrite
    elif stage.kind == "solve_questions":
        samples = int(stage.settings.get("samples", 5))
    return inference_cost.sampling_cost(
        engine, rows, asked, output, shares, samples=samples, cached=cached, shared=not authors, **more
    )  # fmt: skip


def _prompt_tokens(file: str | None) -> float:
    """Tokens of a prompt file, at 1.35 a word."""
    return (
        1.35 * len(Path(file).read_text(encoding="utf-8").split()) if file and Path(file).is_file() else 0.0
    )


def _arithmetic(engine: Engine, cost: Cost, start: float, shares: Efficiency) -> str:
    pace = f"{engine.flops(0) / 1e9:.1f} GFLOP"
    more = f" / {shares.busy:.0%} + {start:.1f} h"
    if not cost.together:
        return f"{_format_count(cost.read)} tokens x {pace}; + {start:.1f} h"
    weights, keys = f"{engine.weights / 1e9:.1f} GB", f"{engine.token / 1024:.0f} KiB"
    return (
        f"reads {_format_count(cost.read)} x {pace}; writes {_format_count(cost.written)}, {cost.together} "
        f"at a time in {1000 * cost.step:.0f} ms ({cost.together} x {pace}, or {weights} and "
        f"{keys} per token);{more}"
    )


def _disk(stage: Stage, config: PlanConfig) -> float:
    """Bytes of rows while a stage runs: JSON lines and parquet side by side."""
    question, response = (2.0 * size + 200 for size in config.characters)
    made = stage.rows.questions
    if stage.kind in ("solve_questions", "score"):
        samples = stage.made.samples if stage.settings.get("what") != "question" else 0
        return made * (question + samples * response)
    if stage.kind in (
        "filter_questions",
        "optimize_questions",
        "select_solutions",
        "assemble_dataset",
        "evaluate",
    ):
        return made * (question + response * _asks(stage))
    return made * question if stage.kind else 0.0


def _training_line(stage: Stage, recipe: Recipe, device: Device, gpus: int) -> Line:
    facts, model = read_facts(*stage.configs), architecture(stage.model)
    if model is None or not facts.tokens:
        return Line(
            stage, memory="its preset gives no tokens" if model else f"sizes of {stage.model} not known"
        )
    from scalequest.config import build

    given = {key: value for key, value in stage.settings.items() if key not in ("limit", "fresh")}
    parts = build(recipe.configs(), {**given, "use_cpu": True, "bf16": False}, stage.name)
    parts[1].bf16 = stage.settings.get("bf16", True)  # built for this machine, described for that one
    work = estimate.Work.of(*parts[1:])
    spread = estimate.Topology.of(stage.launch) if stage.launch else estimate.Topology()
    spread, work = estimate.spread_over(spread, work, gpus)
    rows = stage.rows.questions - (getattr(parts[0], "holdout", 0) or 0)
    epochs, packed = parts[1].num_train_epochs, getattr(parts[1], "packing", False)
    timed, sequences, tokens = estimate.sequences_of(work, rows, facts.tokens, epochs, packed)
    hours = estimate.gpu_hours(model, timed, spread, device, sequences, tokens)
    needs = estimate.memory(model, work, spread).total
    fits = needs <= device.memory * GIB
    state = 14 if spread.zero else 6
    return Line(
        stage, read=tokens, hours=hours, gpus=spread.processes,
        disk=model.parameters() * (2.0 + state * (getattr(parts[1], "save_total_limit", 1) or 1)),
        memory=f"{needs / GIB:.0f} of {device.memory:.0f} GiB" + ("" if fits else ": DOES NOT FIT"),
        changes=[] if fits else estimate.remedies(model, work, spread, device.memory * GIB),
        arithmetic=f"{_format_count(rows)} rows x {facts.tokens:g} tokens x {epochs:g} epochs on "
        f"{spread.processes} processes ({spread.name}), scalequest/estimate.py",
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- own rates


def own_rates(paths: Sequence[str]) -> dict[str, float]:
    """Rows per GPU-hour by recipe, from receipts: their `seconds` are summed over the workers, one GPU each.

    Solved and scored rows are responses: as many per question as the receipt says.

    Raises:
        ConfigError: a receipt is of another recipe or not finished.
    """
    kinds = ("generate_questions", "filter_questions", "solve_questions", "score")
    rates = {}
    for path in paths:
        receipt = json.loads(Path(path).read_bytes())
        name = receipt.get("stage")
        if name not in kinds or not receipt.get("finished"):
            raise ConfigError(f"{path}: expected the receipt of a finished {' or '.join(kinds)}")
        fields, rows = receipt["fingerprint_fields"], receipt["rows_in"]
        if name == "solve_questions":
            rows *= fields.get("samples", 5)
        elif name == "score":
            if fields.get("what") == "question":
                raise ConfigError(f"{path}: scored questions, and the plan's rate is of responses")
            rows = receipt.get("counts", {}).get("responses", rows * 5)
        rates[name] = rows / (receipt["seconds"] / 3600)
    return rates


def _by_rate(line: Line, rates: Mapping[str, float]) -> Line:
    stage = line.stage
    if stage.kind not in rates or not line.hours or stage.settings.get("what") == "question":
        return line
    rows = _rows(stage)
    hours = rows / rates[stage.kind]
    said = f"{_format_count(rows)} rows at {rates[stage.kind]:,.0f} per GPU-hour, your rate"
    return replace(line, hours=hours, arithmetic=said)


# -------------------------------------------------------------------------------------------------- printing


def main(config: PlanConfig) -> None:
    """Print a table for each cluster, the arithmetic, and the paper's own run beside its table 4."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    stages, rates = stages_of(config), own_rates(config.rate)
    for cluster in config.clusters:
        gpus, name = _cluster(cluster)
        lines = [_by_rate(line_of(stage, config, DEVICES[name], gpus), rates) for stage in stages]
        _print_cluster(console, config, cluster, gpus, DEVICES[name], lines)
    if any(_cluster(cluster)[1] == "A100-40G" for cluster in config.clusters):
        _print_check(console, config, stages)
    console.print(assumptions(config))


def _print_cluster(
    console: Any, config: PlanConfig, title: str, gpus: int, device: Device, lines: Sequence[Line]
) -> None:
    from rich.table import Table

    table = Table(title=title)
    for column in ("", "rows", "read", "written", "memory per GPU", "GPU-hours", "hours", "disk", "price"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    price = config.price or device.price
    total = clock = dollars = disk = 0.0
    for line in lines:
        loss = 1.0 if gpus <= 8 else config.efficiency
        hours = line.hours / loss
        paid = hours * (price or 0.0) + line.dollars
        wall = hours / line.gpus if line.gpus else 0.0
        total, clock, dollars, disk = total + hours, clock + wall, dollars + paid, disk + line.disk
        rows = _rows(line.stage)
        table.add_row(
            line.stage.name, _format_count(rows) if rows else "", _tokens(line.read), _tokens(line.written),
            line.memory, f"{hours:,.1f}" if hours else "", f"{wall:,.1f}" if hours else "",
            f"{line.disk / 1e9:,.1f} GB" if line.disk else "",
            f"${paid:,.0f}" if paid else "?" if hours else "",
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "together", "", _tokens(sum(line.read for line in lines)),
        _tokens(sum(line.written for line in lines)), "", f"{total:,.1f}", f"{clock:,.1f}",
        f"{disk / 1e9:,.1f} GB", f"${dollars:,.0f}" if price else "--price",
    )  # fmt: skip
    console.print(table)
    for line in lines:
        if line.changes:
            console.print(f"{line.stage.name} does not fit; change: {'; or '.join(line.changes)}")
    for line in lines:
        if line.arithmetic:
            console.print(f"  {line.stage.name}: {line.arithmetic}")
    console.print()


_FASTER = replace(VLLM_2024, arithmetic=0.4)  # the share of peak that is often assumed for an A100


@dataclass(frozen=True)
class Checked:
    """A line of the paper's table 4: rows, GPU-hours from first principles and published, a reason."""

    name: str
    rows: float
    hours: float
    paper: float
    why: str


def beside_table_4(
    config: PlanConfig, stages: Sequence[Stage], shares: Efficiency = VLLM_2024
) -> list[Checked]:
    """The paper's lines that these stages hold, on its machine and as its authors ran them.

    The published hours are those of as many rows as the stages have.
    """
    checked = []
    for name, (rows_there, hours_there, why) in PAPER.items():
        lines = [
            line_of(stage, config, DEVICES["A100-40G"], 8, shares) for stage in stages if stage.line == name
        ]
        counted = [line.stage for line in lines if line.hours and (line.stage.kind, name) != _SCORED]
        rows = sum(_rows(stage) for stage in counted)
        if rows:
            hours = sum(line.hours for line in lines)
            checked.append(Checked(name, rows, hours, hours_there * rows / rows_there, why))
    return checked


_SCORED = ("score", "solvability and difficulty")  # questions that the same line has counted already


def _rows(stage: Stage) -> float:
    """Rows of a stage, or completions."""
    return stage.rows.questions * (stage.made.samples if stage.kind in ("solve_questions", "score") else 1)


def _print_check(console: Any, config: PlanConfig, stages: Sequence[Stage]) -> None:
    from rich.table import Table

    if not (checked := beside_table_4(config, stages)):
        return
    table = Table(title="Beside the paper's table 4: 8xA100-40G, vLLM of 2024, by rows")
    for column in ("line", "rows", "GPU-hours", "paper", "ratio"):
        table.add_column(column, justify="left" if column == "line" else "right")
    for one in checked:
        row = (
            _format_count(one.rows),
            f"{one.hours:,.1f}",
            f"{one.paper:,.1f}",
            f"{one.hours / one.paper:.2f}",
        )
        table.add_row(one.name, *row)
    hours, paper = sum(one.hours for one in checked), sum(one.paper for one in checked)
    table.add_section()
    table.add_row("together", "", f"{hours:,.1f}", f"{paper:,.1f}", f"{hours / paper:.2f}")
    console.print(table)
    for one in checked:
        within = "within" if abs(one.hours / one.paper - 1) <= 0.3 else "NOT within"
        console.print(f"  {one.name}: {within} 30 %; {one.why}.")
    faster = sum(one.hours for one in beside_table_4(config, stages, _FASTER))
    console.print(
        "  The paper's hours are per row of its table, times these rows; it has 522.9 in all. Sampling fail "
        "rates, the difficulty scorer's training, SFT and evaluation are in none of its lines. The share of "
        f"peak moves the total most: with {_FASTER.arithmetic:.0%} instead of {VLLM_2024.arithmetic:.0%} for "
        f"sampling and scoring it would be {faster / paper:.2f} of the paper's.\n"
    )


def assumptions(config: PlanConfig) -> str:
    """What the numbers rest on."""
    now, then = VLLM_TODAY, VLLM_2024
    return (
        "A step of sampling takes the longer of its arithmetic and its reading of weights, keys and values. "
        f"Assumed for every stage alike: {now.arithmetic:.0%} of peak in arithmetic (measured by us, H100), "
        f"{now.bandwidth:.0%} of memory bandwidth (vLLM on an A100-40G), the GPU at work {now.busy:.0%} of "
        f"the time (vLLM 0.6.0; {then.busy:.0%} before, by its own profile): sources in "
        "src/scalequest/inference_cost.py. "
        f"{config.question_tokens:g} tokens per question, {config.solution_tokens:g} per response or "
        f"judge's reply, {config.prompt_tokens:g} around a question; filters keep what the paper's kept; "
        f"{config.efficiency:.0%} of more than eight GPUs; {START_SECONDS // 60} minutes to start a stage; "
        "disk while it runs, JSON lines and parquet side by side, a training stage's checkpoints and model.\n"
        + estimate.ASSUMPTIONS
    )


def _cluster(text: str) -> tuple[int, str]:
    number, _, gpu = text.partition("x")
    if not number.isdigit() or not int(number) or gpu not in DEVICES:
        raise ConfigError(f"clusters: {text!r} is not a number, an x and one of {', '.join(DEVICES)}")
    return int(number), gpu


def _tokens(number: float) -> str:
    return _format_count(number) if number else ""


def _format_count(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


RECIPE = Recipe("plan", 1, "tool", lambda: (PlanConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
