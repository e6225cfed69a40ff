r"""Evaluate models on benchmarks: zero-shot, greedy, chain of thought, every answer graded.

One machine, with a config file or everything on the command line:

    python eval/evaluate.py --config recipes/tiny/evaluate.yaml
    python eval/evaluate.py --models '{base: runs/base, tuned: runs/sft}' --chat_format qwen2_math \
        --benchmarks eval/benchmarks/gsm8k.yaml eval/benchmarks/math.yaml --output_dir runs/evaluation

One node with 8 GPUs, each with a copy of the model and an eighth of the problems:

    accelerate launch --config_file accelerate_configs/ddp.yaml eval/evaluate.py --config ...

Several nodes, run once on each, with output_dir on a shared file system:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        eval/evaluate.py --config ...

Other ways to ask:

    --models '{sft: "runs/sft/checkpoint-*"}'             a sweep, one row of the table per folder
    --models '{lora: runs/sft/adapter}'                   a LoRA adapter with the base model that it names
    --prompts eval/prompts/four_shots.yaml                worked examples, for a base model
    --samples 16 --sampling.temperature 0.7               pass@k, maj@k, avg@k and the spread over samples
    --server.url http://localhost:8000/v1 --models '{remote: name-on-the-server}'

To grade saved outputs again with the current grader, without asking a model, or to compute best@k from scores
that another program assigned to the outputs (rows with benchmark, id, prompt, sample and a column `reward`):

    python eval/evaluate.py --regrade runs/tiny/evaluate --output_dir runs/tiny/regraded
    python eval/evaluate.py --regrade runs/16 --output_dir runs/best --score reward --scores '{sft: s.jsonl}'

With a grader of your own, e.g. this my_grader.py, which tables then name as part of the protocol (a function
of the response that returns the answer in it, or None, is given as `--grading.extraction` instead):

    def right(response, reference):
        return response.strip().endswith(reference)

    python eval/evaluate.py --config recipes/tiny/evaluate.yaml --grading.function my_grader.py:right

To write OUTPUT/<label>/audit.html, the outputs for which math-verify's verdict differs, also later:

    python eval/evaluate.py --config recipes/tiny/evaluate.yaml --audit true

Hardware: a 24 GB GPU per copy of a 7B model, or 2 CPU cores for the tiny ones. Each model runs in its own
process, whose engine starts once for all benchmarks; answers are graded in parallel. Run the same command
again to resume an interrupted evaluation after its last complete block.

Result: the table; OUTPUT/<label>/ with every completion, extracted answer and verdict (data/*.parquet), and
results.json with accuracy, n, 95 % interval, shares of truncated and answerless outputs, protocol
fingerprint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalequest import atomic_files, heartbeat
from scalequest.config import ConfigError, RunOptions
from scalequest.evaluation import harness, protocol, tables
from scalequest.evaluation.benchmarks import LoadedBenchmark, load_benchmark
from scalequest.evaluation.results import RESULTS, read_results, row_of_result
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.pages.markup import shorten
from scalequest.pipeline.preload import forked, preloaded
from scalequest.pipeline.subreaper import SupervisedProcess, forward_signals
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import Row, read_dropped, read_rows, source_fingerprint
from scalequest.stage.folder import Stage
from scalequest.stage.opening import clear
from scalequest.stage.script import open_stage, run_script, track

AUDIT = "audit.html"
MOST_CHARACTERS = 300  # of an answer in the audit: what was taken for one may be a whole output

if TYPE_CHECKING:
    from scalequest.evaluation.evaluated_model import EvaluatedModel


def main(run: RunOptions, config: EvaluationConfig) -> None:
    """Evaluate every model in its own process, then gather; with `only`, evaluate that model in this one."""
    given, config = config, config.swept()
    benchmarks = read_benchmarks(run, config)
    if config.only is not None:
        evaluate_one(run, config, config.only, benchmarks)
        return

    # 1. The folder of the whole evaluation, which the first launched process keeps open
    first = heartbeat.first_rank()
    if config.regrade is not None and not first:
        return  # there is no engine to run, and one process has the folder
    stage = open_folder("evaluate", run, config, list(config.models), benchmarks) if first else None
    results = [Path(run.output_dir) / label / RESULTS for label in config.models]
    if stage is not None and stage.finished and not all(path.is_file() for path in results):
        # A model's folder was removed: evaluate that model again, and gather the results of all models again
        clear(run.output_dir, keep=config.models)
        stage = open_folder("evaluate", run, config, list(config.models), benchmarks)

    # 2. Each model in its own process, which ends when this one ends
    if stage is None or not stage.finished:
        for label in config.models:
            if config.regrade is not None:
                regrade_one(run, config, label, benchmarks)
                continue
            with heartbeat.quiet():  # the child process reports its progress
                status = evaluate_in_process(run, given, label)
            if status:
                sys.exit(status)

    # 3. One table of all models
    if stage is not None:
        gather_results(stage, config)
        if config.audit:
            audit_models(stage, config, benchmarks)


def read_benchmarks(run: RunOptions, config: EvaluationConfig) -> list[LoadedBenchmark]:
    """Read the benchmarks with their prompts, and check what an evaluation needs.

    Raises:
        ConfigError: something is missing, or two benchmarks have the same name or title.
    """
    if not config.models or not config.benchmarks:
        raise ConfigError(f"{'benchmarks' if config.models else 'models'}: give at least one")
    if config.regrade is not None and Path(config.regrade).resolve() == Path(run.output_dir).resolve():
        raise ConfigError("output_dir: must differ from the folder of the outputs, which is left unchanged")
    loaded = [
        load_benchmark(path, run.limit, patches=config.patches, hub=config.hub) for path in config.benchmarks
    ]
    benchmarks = protocol.apply_prompts(loaded, config)
    if len({atomic_files.one_file(benchmark.name) for benchmark in benchmarks}) < len(benchmarks):
        raise ConfigError("benchmarks: two files have the same name, or names that differ only in case")
    by_title: dict[str, str] = {}
    for benchmark in benchmarks:
        if (other := by_title.setdefault(benchmark.title, benchmark.name)) != benchmark.name:
            raise ConfigError(
                f"benchmarks: '{other}' and '{benchmark.name}' have the same title, "
                f"'{benchmark.title}', which tables use as a heading; change one"
            )
    return benchmarks


def evaluate_in_process(run: RunOptions, config: EvaluationConfig, label: str) -> int:
    """Evaluate one model in its own process; returns its exit status."""
    if preloaded():  # a fork need not import again
        return forked(lambda: run_script(main, run, replace(config, only=label)))
    process = SupervisedProcess([sys.executable, __file__, *sys.argv[1:], "--only", label])
    try:
        with forward_signals(process) as received:
            process.wait()
    finally:
        process.end()  # whatever happened here
        status = process.finish()
    return 128 + received[0] if received else status


def evaluate_one(
    run: RunOptions, config: EvaluationConfig, label: str, benchmarks: Sequence[LoadedBenchmark]
) -> None:
    """Evaluate one model on all benchmarks, in OUTPUT/<label>."""
    # The number of this process among the launched ones, before anything that looks at devices is imported
    from scalequest.stage.launch import worker

    place = worker(config.engine.tensor_parallel_size)
    from scalequest.evaluation.output_grading import GradingPool

    run = replace(run, output_dir=str(Path(run.output_dir) / label))
    stage = open_folder("evaluate_model", run, config, [label], benchmarks, place)
    if stage.finished:
        if place[0] == 0:  # a kill may have come between the rows and the results
            harness.collect_results(run.output_dir, config, label, benchmarks)
        return
    with ExitStack() as stack:
        tracker = stack.enter_context(track(stage, run, config, worker=place[0]))
        # The grading processes start while the engine loads
        pool = stack.enter_context(GradingPool(config.grading, config.graders))
        model = open_model(stack, stage, run, config, label, place)
        harness.evaluate(stage, model, config, run, benchmarks, pool, tracker=tracker)
        if place[0] == 0:
            results = harness.collect_results(run.output_dir, config, label, benchmarks)
            tracker.log({f"{result.benchmark}/accuracy": result.accuracy.value for result in results})
            tracker.table("results", [row_of_result(result) for result in results])


def open_model(
    stack: ExitStack,
    stage: Stage,
    run: RunOptions,
    config: EvaluationConfig,
    label: str,
    place: tuple[int, int],
) -> EvaluatedModel[Any, Any]:
    """Load the model, or connect to the server that has it."""
    from scalequest.chat import bind, load_tokenizer
    from scalequest.engines.loading import open_generator
    from scalequest.engines.server import ChatServer
    from scalequest.evaluation.evaluated_model import connect_engine, connect_server

    model, revision = config.models[label], config.revisions.get(label)
    if config.server.url is not None:
        named = replace(config.server, model=model)
        journal = stage.output_dir / "parts"
        server = stack.enter_context(ChatServer(named, config.sampling, journal=journal, worker=place))
        return connect_server(server)
    chat = bind(protocol.format_of(config, label), load_tokenizer(protocol.tokenizer_of(model), revision))
    loading = open_generator(model, config.engine, revision=revision, seed=run.seed)
    generator = stack.enter_context(loading)
    stage.receipt["engine"] = f"{generator.name} {generator.version}"
    return connect_engine(generator, chat, config.sampling)


def regrade_one(
    run: RunOptions, config: EvaluationConfig, label: str, benchmarks: Sequence[LoadedBenchmark]
) -> None:
    """Grade the saved outputs of one model again, and print the verdicts that changed."""
    from scalequest.evaluation.output_grading import GradingPool

    before = Path(config.regrade or "") / label
    run = replace(run, output_dir=str(Path(run.output_dir) / label))
    rows = read_rows(before)
    if (before / RESULTS).is_file():
        earlier = read_results(before / RESULTS)
    else:  # a function of the user's failed on some outputs
        earlier = harness.summarise_rows(list(rows), before, config, label, asked_before(before, benchmarks))
    harness.check_same_questions(earlier, config, benchmarks)
    stage = open_folder("evaluate_model", run, config, [label], benchmarks)
    if not stage.finished:
        with GradingPool(config.grading, config.graders) as pool:
            dropped = read_dropped(before)
            harness.regrade(stage, rows, dropped, config, run, label, benchmarks, pool)
    harness.collect_results(run.output_dir, config, label, benchmarks, earlier)
    regraded = zip(rows, read_rows(run.output_dir), strict=True)
    changed = [new for old, new in regraded if old["correct"] != new["correct"]]
    print(f"{label}: graded {len(rows)} outputs again, {len(changed)} verdicts changed")
    for new in changed:
        now = "right" if new["correct"] else "wrong"
        print(f"  {new['benchmark']} {new['id']}: now {now}: {new['extracted']!r} for {new['reference']!r}")


def asked_before(folder: Path, benchmarks: Sequence[LoadedBenchmark]) -> list[LoadedBenchmark]:
    """Return the benchmarks as an evaluation without results asked them, by its receipt."""
    fields = protocol.read_receipt(folder)["fingerprint_fields"]
    asked = fields["benchmarks"]
    return [
        replace(one, sha256=asked[one.name]["sha256"], limit=fields["limit"])
        for one in benchmarks
        if one.name in asked
    ]


def open_folder(
    name: str,
    run: RunOptions,
    config: EvaluationConfig,
    labels: Sequence[str],
    benchmarks: Sequence[LoadedBenchmark],
    place: tuple[int, int] = (0, 1),
) -> Stage:
    """Open the folder of one model, or of the whole evaluation."""
    inputs = protocol.fingerprints_of_models(config, labels)
    if config.regrade is not None:
        outputs = [str(Path(config.regrade) / label) for label in labels]
        inputs = {folder: source_fingerprint(folder) for folder in outputs}
    if config.score is not None:  # last: the first one is read as the model's fingerprint
        inputs |= {config.scores[label]: source_fingerprint(config.scores[label]) for label in labels}
    return open_stage(
        name,
        harness.VERSION,
        run,
        config,
        inputs=inputs,
        writes=[RESULTS, AUDIT] if name == "evaluate_model" else list(map(escape, labels)),
        worker=place,
        **protocol.identity_of(config, labels, benchmarks),
    )


def gather_results(stage: Stage, config: EvaluationConfig) -> None:
    """Save the results of all models in the folder above theirs, and print them."""
    folders = {label: stage.output_dir / label for label in config.models}
    if not stage.finished:
        for label in config.models:
            harness.check_graded(stage.output_dir, label)
    results = [result for folder in folders.values() for result in read_results(folder / RESULTS)]
    shown = tables.tables_of_results(results)
    if not stage.finished:
        receipts = [protocol.read_receipt(folder) for folder in folders.values()]
        spent = {key: sum(receipt[key] for receipt in receipts) for key in ("tokens", "seconds")}
        stage.blocks.cut(len(results), len(results))
        stage.blocks.write(0, [row_of_result(result) for result in results], **spent)
        stage.finish(rows_in=len(results), card=tables.format_markdown(shown, title="Evaluation"))
    tables.print_tables(shown)


def audit_models(stage: Stage, config: EvaluationConfig, benchmarks: Sequence[LoadedBenchmark]) -> None:
    """Write one page per model of the outputs on which math-verify's verdict differs from the saved one."""
    from scalequest.grading import Grader
    from scalequest.grading.audit import audit

    with Grader(config.grading) as grader:
        for label in config.models:
            rows = read_rows(stage.output_dir / label)
            saved = harness.submissions_of(rows, config, label, benchmarks)
            graded = [audited_row_of(row, one, config) for row, one in zip(rows, saved, strict=True)]
            page = stage.output_dir / label / AUDIT
            differing = audit(graded, page, grader=grader)
            killed = sum(one["math-verify"] == "killed" for one in differing)
            late = f", and was killed on {killed}" if killed else ""
            otherwise = f"{len(differing) - killed} of {len(rows)} outputs differently{late}"
            print(f"{label}: math-verify judges {otherwise}: {page}")


def audited_row_of(row: Row, saved: harness.SavedSubmission, config: EvaluationConfig) -> Row:
    """A row as the audit takes it, with what is taken for an answer cut to a length that a page can show."""
    # A truncated output is wrong whoever judges, unless truncated ones are graded
    lost = row["truncated"] and config.truncated == "wrong"
    return {
        **row,
        "completion": "" if lost else saved.submission.text,
        "references": saved.submission.references,
        "extracted": None if row["extracted"] is None else shorten(row["extracted"], MOST_CHARACTERS),
    }


def add_saved_settings(words: Sequence[str]) -> list[str]:
    """Add the settings of the evaluation to grade again, except its folder, to the command line."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if "--regrade" not in split[:-1] or "--config" in split:
        return list(words)
    folder = split[split.index("--regrade") + 1]
    # The settings of a folder that was moved name the old one, which may be another evaluation's by now
    elsewhere = [] if "--output_dir" in split else ["--output_dir", folder]
    return ["--config", str(Path(folder) / "config.yaml"), *elsewhere, *words]


RECIPE = Recipe(
    "evaluate",
    harness.VERSION,
    "evaluation",
    lambda: (RunOptions, EvaluationConfig),
    main,
    add_saved_settings,
)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
