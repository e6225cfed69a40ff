"""The data recipes as a user starts them: help, mistakes, kill and restart, several processes, the chain."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import build
from stage_support import data_files, dropped, kept, receipt

ROOT = Path(__file__).parents[1]
RECIPES = (
    "generate_questions",
    "optimize_questions",
    "filter_questions",
    "solve_questions",
    "select_solutions",
    "score",
    "assemble_dataset",
    "dataset_statistics",
)
HEAVY = ("torch", "transformers", "vllm", "trl", "datasets", "wandb", "pyarrow", "math_verify")


def path_of(name: str) -> Path:
    """Of a recipe, or of a script that is no stage."""
    return next(path for part in ("recipes", "scripts") if (path := ROOT / part / f"{name}.py").exists())


def recipe(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path_of(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(name: str, *words: object) -> list[str]:
    return [sys.executable, str(path_of(name)), *map(str, words)]


def run(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=500, check=False)


def generation(model: Path, folder: Path, rows: int = 240) -> list[str]:
    return command(
        "generate_questions", "--output_dir", folder, "--track", "none", "--num_questions", rows,
        "--model_name_or_path", model, "--chat_format", "tinymath", "--engine.name", "transformers",
        "--block_size", 8, "--sampling.max_tokens", 14,
    )  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_help_is_instant(name: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(path_of(name))!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert "--output_dir" in done.stdout
    assert "LOADED []" in done.stdout


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    done = run(command("solve_questions", "--output_dir", tmp_path / "out", "--inputs", "x"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: command line: unknown key '--inputs'; did you mean 'input'?")
    missing = tmp_path / "none.jsonl"
    done = run(command("select_solutions", "--output_dir", tmp_path / "out", "--input", missing))
    assert done.returncode == 2
    assert done.stderr == f"error: {missing}: No such file or directory\n"
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generation stage that one process ran in one go; some rows are cut, so some are dropped."""
    folder = tmp_path_factory.mktemp("undisturbed") / "questions"
    done = run(generation(tiny_model, folder))
    assert done.returncode == 0, done.stderr
    assert kept(folder)
    assert dropped(folder)
    return folder


def test_killed_between_blocks_and_started_again(
    tiny_model: Path, undisturbed: Path, quick_python: str, tmp_path: Path
) -> None:
    folder = tmp_path / "questions"
    words = generation(tiny_model, folder)
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 300
    while len(list(folder.glob("parts/0*.jsonl"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("parts/0*.jsonl")}
    assert 3 <= len(written) < 30
    assert not receipt(folder)["finished"]
    assert not (folder / "data").exists()

    # a part that a person deletes is a block that is done again
    words[0] = quick_python
    sorted(folder.glob("parts/0*.jsonl"))[1].unlink()
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert data_files(folder) == data_files(undisturbed)
    assert receipt(folder)["kept"] == receipt(undisturbed)["kept"]
    assert receipt(folder)["tokens"] == receipt(undisturbed)["tokens"]

    # finished: the same command does nothing, another setting refuses
    before = data_files(folder)
    assert "already finished" in run(words).stdout
    refused = run([*words, "--sampling.temperature", "0.9"])
    assert refused.returncode == 2
    assert "sampling.temperature: 1.0 -> 0.9" in refused.stderr
    assert data_files(folder) == before


def test_two_processes_give_the_rows_of_one(
    tiny_model: Path, undisturbed: Path, quick_python: str, tmp_path: Path
) -> None:
    topology = tmp_path / "two.yaml"
    topology.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nuse_cpu: true\nnum_machines: 1\n"
        "num_processes: 2\nmachine_rank: 0\nmixed_precision: 'no'\nmain_training_function: main\n"
    )
    folder = tmp_path / "questions"
    launch = [quick_python, "-m", "accelerate.commands.launch", "--config_file", str(topology)]
    done = run([*launch, "--no_python", quick_python, *generation(tiny_model, folder)[1:]])
    assert done.returncode == 0, done.stderr
    assert data_files(folder) == data_files(undisturbed)
    assert receipt(folder)["tokens"] == receipt(undisturbed)["tokens"]


def test_the_chain_from_model_to_pairs(tiny_model: Path, tmp_path: Path) -> None:
    """Generate, rewrite, filter, solve and select through the scripts' own main functions, in one process."""
    model = {
        "model_name_or_path": str(tiny_model),
        "chat_format": "tinymath",
        "engine": {"name": "transformers"},
    }
    sampling = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 40}

    def stage(name: str, folder: str, **settings: Any) -> dict[str, Any]:
        script = recipe(name)
        given = {"output_dir": str(tmp_path / folder), "block_size": 16, "track": "none", **settings}
        script.RECIPE(*build(script.RECIPE.configs(), given))
        made = receipt(tmp_path / folder)
        assert made["finished"]
        assert (tmp_path / folder / "README.md").read_text().startswith("---\n")
        events = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        assert {"start", "artifact", "finish"} <= {event.get("event") for event in events}
        return made

    prompt = tmp_path / "prompt.yaml"
    prompt.write_text("template: '{question}'\nmarkers: ['answer is']\n")
    seen = tmp_path / "benchmark.jsonl"
    stage("generate_questions", "questions", num_questions=40, sampling={"max_tokens": 40}, **model)
    seen.write_text(json.dumps({"text": kept(tmp_path / "questions")[0]["question"]}) + "\n")
    made = stage(
        "optimize_questions",
        "pairs",
        input=[str(tmp_path / "questions")],
        rewriter="local",
        prompts={"solvability": str(prompt), "difficulty": str(prompt)},
        sampling=sampling,
        **model,
    )
    assert (
        made["kept"] + sum(made["dropped"].values()) == made["rows_in"] == len(kept(tmp_path / "questions"))
    )
    assert made["engine"].startswith("transformers ")
    made = stage(
        "filter_questions",
        "filtered",
        input=[str(tmp_path / "questions")],
        steps=["language", "duplicates", "contamination", "solvability", "difficulty"],
        contamination={"against": [{"source": str(seen), "column": "text"}], "rules": ["exact"]},
        solvability={"min_agreement": 0.3},
        samples=3,
        sampling=sampling,
        keep_responses=True,
        **model,
    )
    assert made["dropped"]["contamination"] == 1
    made = stage(
        "solve_questions",
        "solved",
        input=[str(tmp_path / "filtered")],
        samples=4,
        reuse=True,
        sampling=sampling,
        **model,
    )
    assert made["rows_in"] == len(kept(tmp_path / "filtered"))
    assert len(kept(tmp_path / "solved")[0]["responses"]) == 4
    made = stage("select_solutions", "selected", input=[str(tmp_path / "solved")], min_agreement=0.3)
    pairs = kept(tmp_path / "selected")
    assert made["kept"] == len(pairs) > 3
    columns = ["id", "query", "response", "answer", "agreement", "reward", "margin"]
    assert list(pairs[0]) == [*columns, "generator", "solver", "reward_model"]
    stage(
        "select_solutions",
        "shuffled",
        input=[str(tmp_path / "solved")],
        min_agreement=0.3,
        shuffle_answers=True,
    )
    shuffled = kept(tmp_path / "shuffled")
    assert [row["query"] for row in shuffled] == [row["query"] for row in pairs]
    assert sorted(row["response"] for row in shuffled) == sorted(row["response"] for row in pairs)
    assert all(row["id"] != row["from_id"] for row in shuffled)
