r"""Put the method's claims to the test: arms over seeds, and one table of claims.

    python recipes/tiny/study.py --profile quick --output runs/study --jobs 3  # 3 seeds; `make study`
    python recipes/tiny/study.py --profile full --output runs/study_full  # 5 seeds, a night
    python recipes/tiny/study.py --arms qft qpo --dry-run                 # which stages would run
    python recipes/tiny/study.py --to measure measure_chosen              # questions only, without students
    python recipes/tiny/study.py --seeds 4 5 --output runs/study_2        # further seeds, anywhere
    python recipes/tiny/study.py --seeds 1 --measurements runs/study_2/measurements.jsonl  # put together
    python recipes/tiny/study.py --output runs/study --page               # also docs/results, docs/study.md
    python recipes/tiny/study.py --page                                   # docs/study.md of docs/results

study.yaml declares arms (a pipeline file and variables), seeds, and the claims that compare arms. Arms share
every stage that has the same settings and inputs. Finished stages are skipped, so run the same command again
after a kill. If a stage fails, the arms that do not need it go on. After every seed (with --jobs, at the
end), this writes into OUTPUT: measurements.jsonl (a number per arm, seed and measure), study.json, the same
as Markdown, effects.png, and a plot per trend.

What is measured comes from an arm's stages called measure and measure_chosen (measure_questions.py), pool,
qpo, sft and evaluate. Hardware: 2 CPU cores, no network. Exit status: 1 if an arm failed, 2 if a setting is
wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError, build, option, read_yaml, required
from scalequest.config.ranges import NOT_NEGATIVE, SEED
from scalequest.evaluation.claims import RULE, Claim, Finding, claim_lines, decide, shown
from scalequest.evaluation.statistics import Estimate, mean_over_runs
from scalequest.pages.markup import table_lines
from scalequest.pipeline.look_ahead import look_ahead
from scalequest.pipeline.runner import Failed, load, plan, read_state, run
from scalequest.pipeline.shared_stages import Shared, by_content, union, without
from scalequest.pipeline.status_table import read_receipt
from scalequest.records import read_rows
from scalequest.run_page.claim_plots import effects, save, trend

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/study.md"
RESULT = ROOT / "docs/results/study.json"
PART = re.compile(r"(<!-- study: (\w+) -->\n)(.*?)(<!-- end of study -->)", re.DOTALL)
EQUAL_LENGTH = "well_posed_at_equal_length"
OF_LENGTH = "well_posed_of_length_"


@dataclass(frozen=True)
class Arm:
    """One way to run a pipeline."""

    name: str = required("its name")
    pipeline: str = required("its pipeline file")
    vars: dict[str, str] = option(help="variables over those of the file", default_factory=dict)
    to: str | None = option(None, "its last stage, if it is not the file's")


@dataclass(frozen=True)
class Measure:
    """What arms are compared by."""

    name: str = required("its name")
    title: str = required("what tables call it, with its unit")
    least: float = required("the least effect that counts", within=NOT_NEGATIVE)
    digits: int = option(1, "decimals in tables", within=NOT_NEGATIVE)


@dataclass(frozen=True)
class Profile:
    """How much is run."""

    name: str = required("its name")
    seeds: list[int] = required("one run of every arm each", within=SEED)
    vars: dict[str, str] = option(help="variables of all arms; an arm's own go first", default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study's file."""

    profiles: list[Profile] = required("the first is the default")
    reference: str = required("the arm at whose lengths the table of arms shows well-posedness")
    measures: list[Measure] = required("what arms are compared by")
    arms: list[Arm] = required("in the order in which they run")
    claims: list[Claim] = required("in the order of the table")

    def __post_init__(self) -> None:
        for kind in ("profiles", "measures", "arms", "claims"):
            names = [one.name for one in getattr(self, kind)]
            for name in {name for name in names if names.count(name) > 1}:
                raise ConfigError(f"{kind}: {name!r} is there twice")
        arms, measures = ({one.name for one in some} for some in (self.arms, self.measures))
        if self.reference not in arms:
            raise ConfigError(f"reference: no arm is called {self.reference!r}")
        for claim in self.claims:
            for arm in set(claim.arms) - arms:
                raise ConfigError(f"claim {claim.name!r}: no arm is called {arm!r}")
            if claim.measure not in measures:
                raise ConfigError(f"claim {claim.name!r}: no measure is called {claim.measure!r}")


@dataclass(frozen=True)
class Row:
    """One number of one arm in one seed; `n` is what it was counted over."""

    seed: int
    arm: str
    measure: str
    value: float
    n: int | None


def read_study(path: str) -> Study:
    """Read a study's file.

    Raises:
        ConfigError: a key, a name or a file is wrong.
    """
    return build((Study,), read_yaml(path), path)[0]  # type: ignore[no-any-return]


def named(kind: str, name: str, some: Iterable[Any]) -> Any:
    """Return the one of a list that has a name."""
    by_name = {one.name: one for one in some}
    if name not in by_name:
        raise ConfigError(f"{kind}: {name!r} is none of {', '.join(by_name)}")
    return by_name[name]


# ---------------------------------------------------------------------------------------------------- running


def pipelines(arms: Sequence[Arm], profile: Profile, seed: int, to: Sequence[str] = ()) -> dict[str, Shared]:
    """Return what each arm runs with one seed, by its name; equal stages have equal names.

    With `to`, an arm ends at the last of its stages with one of these names; one that has none is left out.
    """
    found = {}
    for arm in arms:
        spec = load(arm.pipeline, {**profile.vars, **arm.vars, "seed": str(seed)})
        if arm.to is not None:
            names = [stage.name for stage in spec.stages]
            if arm.to not in names:
                raise ConfigError(f"arm {arm.name!r}: to: no stage of {arm.pipeline} is called {arm.to!r}")
            spec = replace(spec, stages=spec.stages[: names.index(arm.to) + 1])
        if to:
            places = [place for place, stage in enumerate(spec.stages) if stage.name in to]
            if not places:
                continue
            spec = replace(spec, stages=spec.stages[: places[-1] + 1])
        found[arm.name] = by_content(spec, f"arm {arm.name!r}")
    return found


def run_arms(arms: Mapping[str, Shared], output: Path, rerun: str) -> dict[str, str]:
    """Run all unfinished stages of all arms; return the failed arms, each with the stage that failed.

    Raises:
        Failed: a signal stopped it.
    """
    spec = union(output.name, [arm.spec for arm in arms.values()])
    steps = plan(spec, output, source="study")
    failed: set[str] = set()
    while left := without(steps, failed):
        ahead = look_ahead(left, output)
        if ahead.faults:
            print(*(f"error: {fault}" for fault in ahead.faults), sep="\n", file=sys.stderr)
            failed |= {stage for fault in ahead.faults for stage in re.findall(r"^stage '([^']+)'", fault)}
            continue
        try:
            run(spec, left, output, rerun=rerun, fingerprints=ahead.fingerprints)
            break
        except Failed as failure:
            if failure.stopped:
                raise
            failed.add(failure.stage)
    return {
        name: next(own for own, stage in arm.names.items() if stage in failed)
        for name, arm in arms.items()
        if failed.intersection(arm.names.values())
    }


def threads_of(place: int, seeds: int, jobs: int, cores: int) -> int:
    """Return the threads of the seed at a place; the seeds of a last, smaller round share all cores."""
    last = seeds % jobs or jobs
    return max(1, cores // (last if place >= seeds - last else jobs))


def run_at_once(asked: argparse.Namespace, seeds: Sequence[int], output: Path) -> int:
    """Run seeds in `asked.jobs` processes at once, which share the cores; return the highest exit status.

    Models of this size keep two cores less busy than two models keep one core each. Every line that a
    process prints starts with its seed.
    """
    words = [sys.executable, __file__, asked.study, "--output", str(output), "--only-run"]
    words += ["--profile", asked.profile] if asked.profile else []
    words += ["--arms", *asked.arms] if asked.arms else []
    words += ["--to", *asked.to] if asked.to else []
    cores = os.cpu_count() or 1
    running: list[subprocess.Popen[str]] = []
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        for process in running:
            process.terminate()

    def run_seed(place: int, seed: int) -> int:
        if stopped.is_set():
            return 0
        threads = str(threads_of(place, len(seeds), asked.jobs, cores))
        process = subprocess.Popen(
            [*words, "--seeds", str(seed)], env={**os.environ, "OMP_NUM_THREADS": threads}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        running.append(process)
        if stopped.is_set():  # while it was starting
            process.terminate()
        assert process.stdout is not None
        for line in process.stdout:
            print(f"seed {seed}: {line}", end="", flush=True)
        status = process.wait()
        return status if status >= 0 else 128 - status

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ThreadPoolExecutor(asked.jobs) as pool:
            return max(pool.map(run_seed, range(len(seeds)), seeds))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# -------------------------------------------------------------------------------------------------- measuring

Found = dict[str, tuple[float | None, int | None]]  # value and n by measure


def read_measured(folder: Path) -> Found:
    """Return what the oracle says of an arm's questions, in %."""
    content = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    (one,) = content["generators"].values()
    posed = round((one["well_posed"]["value"] or 0) * one["well_posed"]["n"])
    found: Found = {
        "sound": (100 * posed / one["questions"], one["questions"]),
        "steps": (one["steps"]["value"], one["steps"]["n"]),
    }
    shares = {key: one[key] for key in ("well_posed", "distinct")}
    shares |= {f"{OF_LENGTH}{length}": share for length, share in one["by_length"].items()}
    return found | {
        key: (None if share["value"] is None else 100 * share["value"], share["n"])
        for key, share in shares.items()
    }


def read_chosen(folder: Path) -> Found:
    """Return the well-posed share, in %, of what a filter left; the file also counts what it dropped."""
    content = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    (one,) = content["generators"].values()
    posed, left = round((one["well_posed"]["value"] or 0) * one["well_posed"]["n"]), one["distinct"]["n"]
    return {"chosen_sound": (100 * posed / left if left else None, left)}


def read_pool(folder: Path) -> Found:
    """Return the solver's mean agreement with itself, in %."""
    values = [row["agreement"] for row in read_rows(folder)]
    return {"agreement": (100 * sum(values) / len(values) if values else None, len(values))}


def read_accuracy(folder: Path) -> Found:
    """Return the student's accuracy, in %."""
    (result,) = json.loads((folder / "student/results.json").read_text(encoding="utf-8"))["results"]
    return {"accuracy": (100 * result["accuracy"]["value"], result["n"])}


def trained(measure: str) -> Callable[[Path], Found]:
    """Return a reader of how many rows a model was trained on."""
    return lambda folder: {measure: (read_receipt(folder)["kept"], None)}


READERS: Mapping[str, Callable[[Path], Found]] = {
    "measure": read_measured,
    "measure_chosen": read_chosen,
    "pool": read_pool,
    "qpo": trained("preference_pairs"),
    "sft": trained("pairs"),
    "evaluate": read_accuracy,
}


def measure_arm(name: str, arm: Shared, output: Path, seed: int) -> list[Row]:
    """Return the numbers of an arm's finished stages, and its cost if all are finished."""
    noted = read_state(output)["stages"]
    done = {own: noted[stage] for own, stage in arm.names.items() if "command" in noted.get(stage, {})}
    found: Found = {}
    for own in done:
        if own in READERS:
            found |= READERS[own](output / arm.names[own])
    if done.keys() == arm.names.keys():
        found["seconds"] = (sum(one["seconds"] for one in done.values()), None)
    return [Row(seed, name, key, value, n) for key, (value, n) in found.items() if value is not None]


@dataclass(frozen=True)
class Measured:
    """All numbers of a study, as claims look at them."""

    rows: Sequence[Row]

    def __call__(self, arm: str, measure: str, other: str | None) -> dict[int, float]:
        """Return an arm's values by seed, as they are compared with those of another arm."""
        if measure == EQUAL_LENGTH:
            return self._at_equal_length(arm, other or arm)
        return {row.seed: row.value for row in self.rows if (row.arm, row.measure) == (arm, measure)}

    def _at_equal_length(self, arm: str, other: str) -> dict[int, float]:
        """Direct standardisation: the mean of the shares by length, each weighted by both arms' questions."""
        shares: dict[tuple[int, str], dict[str, Row]] = {}
        for row in self.rows:
            if row.arm in (arm, other) and row.measure.startswith(OF_LENGTH):
                shares.setdefault((row.seed, row.measure), {})[row.arm] = row
        sums: dict[int, tuple[float, float]] = {}
        for (seed, _), both in shares.items():
            if {arm, other} <= both.keys():
                weight = sum(row.n or 0 for row in both.values())
                value, total = sums.get(seed, (0.0, 0.0))
                sums[seed] = (value + weight * both[arm].value, total + weight)
        return {seed: value / total for seed, (value, total) in sums.items() if total}


# ---------------------------------------------------------------------------------------------------- telling


def read_measurements(paths: Sequence[str]) -> list[Row]:
    """Return the numbers that other runs of the study have written.

    Raises:
        ConfigError: a file cannot be read, or a line of it is no measurement.
    """
    found = []
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            found += [Row(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"--measurements: {path}: not a measurements.jsonl: {error}") from None
    return found


def together(earlier: Iterable[Row], later: Iterable[Row]) -> list[Row]:
    """Return all numbers, with the later one of two of the same seed, arm and measure."""
    kept = {(row.seed, row.arm, row.measure): row for row in (*earlier, *later)}
    return [kept[key] for key in sorted(kept)]


def conclude(study: Study, rows: Sequence[Row], profile: str) -> dict[str, Any]:
    """Return what study.json holds: the finding of every claim, and every arm's means over seeds."""
    look = Measured(rows)
    least = {measure.name: measure.least for measure in study.measures}
    means: dict[str, dict[str, Any]] = {arm.name: {} for arm in study.arms}
    for arm in study.arms:
        for measure in study.measures:
            if values := look(arm.name, measure.name, study.reference):
                means[arm.name][measure.name] = asdict(mean_over_runs(list(values.values())))
    return {
        "profile": profile,
        "seeds": sorted({row.seed for row in rows}),
        "claims": {one.name: asdict(decide(one, look, least[one.measure])) for one in study.claims},
        "arms": means,
    }


def estimate(read: Mapping[str, Any] | None) -> Estimate:
    """Return an estimate that was written as JSON."""
    return Estimate(**read) if read else Estimate(None, None, None, 0)


def findings_in(result: Mapping[str, Any]) -> dict[str, Finding]:
    """Return the findings that study.json holds, by claim."""
    return {
        name: Finding(
            estimate(one["effect"]),
            estimate(one["over_control"]) if one["over_control"] else None,
            one["verdict"],
        )
        for name, one in result.get("claims", {}).items()
    }


def markdown(study: Study, result: Mapping[str, Any]) -> str:
    """Return the tables of claims and arms; without a result, what is claimed and how it will be decided."""
    found = findings_in(result)
    lines = [RULE, ""]
    counted = ", ".join(f"{one.title}: {one.least:g}" for one in study.measures if one.least)
    lines += [f"The least effects that count: {counted}. Intervals are Student's t over seeds.", ""]
    digits = {measure.name: measure.digits for measure in study.measures}
    known = {claim.name: found[claim.name] for claim in study.claims if claim.name in found}
    lines += claim_lines(study.claims, known, digits)
    if arms := {name: means for name, means in result.get("arms", {}).items() if means}:
        columns = ("arm", *(measure.title for measure in study.measures))
        cells = [
            (name, *(shown(estimate(means.get(one.name)), one.digits) for one in study.measures))
            for name, means in arms.items()
        ]
        lines += ["", *table_lines(columns, cells)]
    if result:
        seeds = len(result["seeds"])
        lines += ["", f"Profile {result['profile']}, {seeds} seed{'s' if seeds != 1 else ''}."]
    return "\n".join(lines)


def plots(study: Study, rows: Sequence[Row], result: Mapping[str, Any], folder: Path, kind: str) -> None:
    """Draw the effects of all claims, and each trend."""
    titles = {measure.name: measure.title for measure in study.measures}
    save(effects(study.claims, findings_in(result), titles), folder / f"effects.{kind}")
    look = Measured(rows)
    for claim in study.claims:
        points = []
        for arm in claim.trend:
            places, values = look(arm, claim.along, None), look(arm, claim.measure, None)
            if places and values:
                points.append((sum(places.values()) / len(places), mean_over_runs(list(values.values()))))
        if points:
            figure = trend(points, titles.get(claim.along, claim.along), titles[claim.measure])
            save(figure, folder / f"{claim.name}.{kind}")


def write(study: Study, rows: Sequence[Row], profile: str, output: Path) -> dict[str, Any]:
    """Write all results of a study into its folder."""
    result = conclude(study, rows, profile)
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    atomic_files.write(output / "measurements.jsonl", lines.encode())
    atomic_files.write(output / "study.json", atomic_files.as_json(result))
    atomic_files.write(output / "claims.md", f"{markdown(study, result)}\n".encode())
    plots(study, rows, result, output, "png")
    return result


def page_of(study: Study, text: str) -> str:
    """Return the text of docs/study.md with its part between the markers written anew."""
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    return PART.sub(lambda found: f"{found[1]}{markdown(study, result)}\n{found[4]}", text)


def write_page(study: Study) -> None:
    """Write the generated part of docs/study.md."""
    PAGE.write_text(page_of(study, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- main


def main(asked: argparse.Namespace) -> int:
    """Run the arms of every seed, and write what they show; return the exit status."""
    try:
        study = read_study(asked.study)
        if asked.page and asked.output is None:
            write_page(study)
            return 0
        profile: Profile = named("--profile", asked.profile or study.profiles[0].name, study.profiles)
        arms = [named("--arms", name, study.arms) for name in asked.arms] or list(study.arms)
        if asked.jobs < 1:
            raise ConfigError(f"--jobs: expected at least 1, got {asked.jobs}")
        if asked.page and asked.only_run:
            raise ConfigError("--page: --only-run writes no results for it")
        if wrong := [seed for seed in asked.seeds if seed not in SEED]:
            raise ConfigError(f"--seeds: expected {SEED}, got {wrong[0]}")
        plans = {seed: pipelines(arms, profile, seed, asked.to) for seed in asked.seeds or profile.seeds}
        rows = read_measurements(asked.measurements)
        if not all(plans.values()):
            raise ConfigError(f"--to: no arm has a stage called {' or '.join(asked.to)}")
        output = Path(asked.output or "runs/study")
        if asked.dry_run:
            show(plans)
            return 0
        failed: dict[int, dict[str, str]] = {}
        status = run_at_once(asked, list(plans), output) if asked.jobs > 1 else 0
        if status > 1:
            return status
        for seed, specs in plans.items():
            folder = output / f"seed_{seed}"
            if asked.jobs == 1:
                failed[seed] = run_arms(specs, folder, shlex.join([Path(sys.executable).name, *sys.argv]))
            if asked.only_run:
                continue
            measured = [row for arm, spec in specs.items() for row in measure_arm(arm, spec, folder, seed)]
            if asked.to:  # an arm that ends early costs less than the whole one
                measured = [row for row in measured if row.measure != "seconds"]
            rows = together(rows, measured)
            result = write(study, rows, profile.name, output)
        if not asked.only_run:
            print((output / "claims.md").read_text(encoding="utf-8"))
        if asked.page:
            atomic_files.write(RESULT, atomic_files.as_json(result))
            atomic_files.write(
                RESULT.parent / "measurements.jsonl", (output / "measurements.jsonl").read_bytes()
            )
            plots(study, rows, result, RESULT.parent, "svg")
            write_page(study)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Failed as failure:
        return failure.status
    for seed, some in failed.items():
        for arm, stage in some.items():
            print(f"failed: arm {arm}, seed {seed}: stage {stage}", file=sys.stderr)
    return 1 if any(failed.values()) else status


def show(plans: Mapping[int, Mapping[str, Shared]]) -> None:
    """Print the stages of every arm; those that an earlier arm runs are in brackets."""
    for seed, arms in plans.items():
        seen: set[str] = set()
        for name, arm in arms.items():
            said = [f"({own})" if stage in seen else own for own, stage in arm.names.items()]
            print(f"seed {seed}, {name}: {' '.join(said)}")
            seen |= set(arm.names.values())
        print(f"seed {seed}: {len(seen)} stages")


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("study", nargs="?", default="recipes/tiny/study.yaml", help="the study's file")
    made.add_argument("--profile", help="one of the file's; by default its first")
    made.add_argument("--output", metavar="DIR", help="output folder; by default runs/study")
    made.add_argument(
        "--seeds", nargs="+", type=int, default=[], metavar="SEED", help="run these instead of the profile's"
    )
    made.add_argument(
        "--measurements", nargs="+", default=[], metavar="FILE",
        help="measurements.jsonl of other runs, whose numbers count where this one has none",
    )  # fmt: skip
    made.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="run only these")
    made.add_argument(
        "--to", nargs="+", default=[], metavar="STAGE",
        help="end every arm at the last of these stages that it has, and leave out arms that have none",
    )  # fmt: skip
    made.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="how many seeds to run at once; 1 by default"
    )
    made.add_argument(
        "--only-run",
        action="store_true",
        help="write no results, as several processes in one folder must not",
    )
    made.add_argument("--dry-run", action="store_true", help="print the stages of every arm")
    made.add_argument(
        "--page", action="store_true", help="write docs/study.md, too; without --output, only it"
    )
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
