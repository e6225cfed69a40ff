"""What a synthesis run takes: shards, tokens, GPU-hours and disk, from a profile's own YAML files.

    python scripts/plan.py --profiles qwen2_math_7b deepseek_math_7b

Rates are the paper's own (its table 4: 8 A100-40G), read back as rows a GPU-hour, so that they hold its
engine, its prompts and its lengths; another GPU is scaled by its memory bandwidth, which is what bounds
decoding. None of it was run by us at this size. With `--rate FILE`, the receipt of a short run of your own,
one GPU a worker, takes the place of the paper's rate for its stage: the better plan.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from scalequest.config import ConfigError, option, read_yaml
from scalequest.config.ranges import NOT_NEGATIVE, POSITIVE, SHARE_ABOVE_0
from scalequest.recipe import Recipe, run_recipe

# Rows and GPU-hours of the paper's table 4, for both generators together; the share that the filters leave.
# By the names that receipts give the stages.
PAPER = {"generate_questions": (2_000_000, 38.4), "filter_questions": (2_000_000, 110.6),
         "solve_questions": (5_000_000, 251.0), "score": (5_000_000, 112.0)}  # fmt: skip
RECIPES = Path(__file__).parents[1] / "recipes"
KEPT = 0.5
DOLLARS = 680.8 / 522.9  # a GPU-hour, from the same table
# Memory bandwidth in GB/s, from the makers' data sheets.
GPUS = {"A100-40G": 1555, "A100-80G": 2039, "H100": 3350, "H200": 4800}
TITLES = {
    "generate_questions": "question generation",
    "filter_questions": "solvability and difficulty",
    "solve_questions": "responses",
    "score": "reward scores",
}


@dataclass(frozen=True)
class PlanConfig:
    """What is planned."""

    profiles: list[str] = option(
        help="folders under recipes/ whose stages are added up",
        default_factory=lambda: ["qwen2_math_7b", "deepseek_math_7b"],
    )
    clusters: list[str] = option(
        help="machines: number x GPU", default_factory=lambda: ["8xA100-40G", "64xH100"]
    )
    question_tokens: float = option(
        60.0, "mean tokens a question: 195 characters (docs/method.md 8) at 3.3 a token", within=POSITIVE
    )
    solution_tokens: float = option(
        405.0, "mean tokens a response: 1,214 characters at 3 a token", within=POSITIVE
    )
    prompt_tokens: float = option(40.0, "chat markup and instruction around a question", within=NOT_NEGATIVE)
    characters: list[float] = option(
        help="mean characters a question, a response",
        default_factory=lambda: [195.0, 1214.0],
        within=POSITIVE,
    )
    efficiency: float = option(
        0.9, "of many GPUs against the paper's eight: stragglers, restarts, start-up", within=SHARE_ABOVE_0
    )
    rate: list[str] = option(help="receipts of your own runs, one GPU each", default_factory=list)


@dataclass(frozen=True)
class Phase:
    """One stage of the plan: rows, blocks on disk, tokens read and generated, bytes, A100-40G hours."""

    name: str
    rows: int
    blocks: int
    read: float
    generated: float
    size: float
    hours: float
    measured: bool


def main(config: PlanConfig) -> None:
    """Add the profiles' stages up and print a table for each cluster."""
    from rich.console import Console
    from rich.table import Table

    phases = plan(config)
    console = Console(width=None if sys.stdout.isatty() else 118)
    for cluster in config.clusters:
        count, gpu = _cluster(cluster)
        speed = GPUS[gpu] / GPUS["A100-40G"]
        table = Table(
            title=f"{cluster}: {_format_count(phases[0].rows)} questions, "
            f"{_format_count(phases[2].rows)} responses"
        )
        for column in (
            "",
            "rows",
            "blocks",
            "blocks a GPU",
            "tokens read",
            "generated",
            "disk",
            "GPU-hours",
            "hours",
            "paper",
        ):
            table.add_column(column, justify="left" if not column else "right")
        total = clock = 0.0
        for phase in phases:
            hours = (
                phase.hours / (1.0 if phase.measured else speed) / (1.0 if count <= 8 else config.efficiency)
            )
            total, clock = total + hours, clock + hours / count
            table.add_row(
                TITLES[phase.name] + (" (your rate)" if phase.measured else ""),
                _format_count(phase.rows), f"{phase.blocks:,}", f"{phase.blocks / count:,.0f}",
                _format_count(phase.read), _format_count(phase.generated), f"{phase.size / 1e9:.1f} GB",
                f"{hours:,.1f}", f"{hours / count:,.1f}", f"{PAPER[phase.name][1]:,.1f}",
            )  # fmt: skip
        table.add_section()
        size = sum(phase.size for phase in phases)
        paper = sum(hours for _, hours in PAPER.values())
        table.add_row(
            "together", "", "", "", _format_count(sum(p.read for p in phases)),
            _format_count(sum(p.generated for p in phases)), f"{size / 1e9:.1f} GB",
            f"{total:,.1f}", f"{clock:,.1f}", f"{paper:,.1f}",
        )  # fmt: skip
        console.print(table)
        if gpu == "A100-40G":
            console.print(f"At the paper's price for a GPU-hour: ${total * DOLLARS:,.0f}.", highlight=False)
    console.print(
        f"Assumed: {config.question_tokens:g} tokens a question, {config.solution_tokens:g} a response, "
        f"{config.prompt_tokens:g} around a question; {100 * KEPT:g} % of the questions survive the filters "
        "(the paper's 2M to 1M); a judge's reply is as long as a response; GPUs as fast as their memory, "
        f"with {100 * config.efficiency:g} % left on more than eight; disk while it runs, JSON lines and "
        "parquet side by side. The last column is the paper's table 4.",
        highlight=False,
    )  # fmt: skip


def plan(config: PlanConfig) -> list[Phase]:
    """The four phases over all profiles.

    Raises:
        ConfigError: a profile lacks a stage, or a receipt is of another stage or not finished.
    """
    questions = responses = blocks = solve_blocks = 0
    for profile in config.profiles:
        folder = RECIPES / profile
        generate, solve = (
            read_yaml(folder / f"{name}.yaml") for name in ("generate_questions", "solve_questions")
        )
        rows = int(generate["num_questions"])
        questions += rows
        blocks += -(-rows // int(generate["block_size"]))
        responses += round(rows * KEPT) * int(solve["samples"])
        solve_blocks += -(-round(rows * KEPT) // int(solve["block_size"]))
    kept = round(questions * KEPT)
    asked = config.question_tokens + config.prompt_tokens
    question_bytes, response_bytes = (2.0 * size + 200 for size in config.characters)
    solved_bytes = kept * question_bytes + responses * response_bytes  # scoring carries the responses on
    own = _own_rates(config.rate, responses / kept)

    def phase(name: str, rows: int, blocks: int, read: float, generated: float, size: float) -> Phase:
        paper_rows, hours = PAPER[name]
        rate = own.get(name, paper_rows / hours)
        return Phase(name, rows, blocks, rows * read, rows * generated, size, rows / rate, name in own)

    return [
        phase("generate_questions", questions, blocks, config.prompt_tokens, config.question_tokens,
              questions * question_bytes),
        # with the judge's whole replies, to dropped questions too
        phase("filter_questions", questions, blocks, asked, config.solution_tokens,
              questions * (question_bytes + response_bytes)),
        phase("solve_questions", responses, solve_blocks, asked, config.solution_tokens, solved_bytes),
        phase("score", responses, solve_blocks, asked + config.solution_tokens, 0.0, solved_bytes),
    ]  # fmt: skip


def _own_rates(paths: list[str], samples: float) -> dict[str, float]:
    """Rows a GPU-hour by stage, from receipts: their `seconds` are summed over the workers, one GPU each.

    Solved and scored rows are responses: as many a question as the receipt says, or else `samples`.
    """
    import json

    rates = {}
    for path in paths:
        receipt = json.loads(Path(path).read_bytes())
        name = receipt.get("stage")
        if name not in PAPER or not receipt.get("finished"):
            raise ConfigError(f"{path}: expected the receipt of a finished {' or '.join(PAPER)}")
        fields, rows = receipt["fingerprint_fields"], receipt["rows_in"]
        if name == "solve_questions":
            rows *= fields.get("samples", samples)
        elif name == "score":
            if fields.get("what") == "question":
                raise ConfigError(f"{path}: scored questions, and the plan's rate is of responses")
            rows = receipt.get("counts", {}).get("responses", rows * samples)
        rates[name] = rows / (receipt["seconds"] / 3600)
    return rates


def _cluster(text: str) -> tuple[int, str]:
    number, _, gpu = text.partition("x")
    if not number.isdigit() or not int(number) or gpu not in GPUS:
        raise ConfigError(f"clusters: {text!r} is not a number, an x and one of {', '.join(GPUS)}")
    return int(number), gpu


def _format_count(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


RECIPE = Recipe("plan", 1, "tool", lambda: (PlanConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
