"""What would end a late stage is said before the first one runs."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scalequest.config import ConfigError
from scalequest.pipeline.look_ahead import left_out, look_ahead, read_all, requests
from scalequest.pipeline.runner import load, plan

PIPELINE = "recipes/tiny/pipeline.yaml"


@pytest.fixture(autouse=True)
def _quick(quick_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read in a fork, except for a pipeline that is run."""
    monkeypatch.setattr(sys, "executable", quick_python)


def changed(folder: Path, *changes: tuple[str, str, object]) -> Path:
    """The demo's pipeline with (stage, argument, value) instead of what it has."""
    content = yaml.safe_load(Path(PIPELINE).read_text())
    by_name = {stage["name"]: stage for stage in content["stages"]}
    for stage, key, value in changes:
        by_name[stage].setdefault("args", {})[key] = value
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def found(pipeline: Path | str, output: Path) -> list[str]:
    return look_ahead(plan(load(pipeline), output), output).faults


@pytest.mark.parametrize("profile", ["qwen2_math_7b", "deepseek_math_7b"])
def test_the_papers_pipelines_lack_what_is_made_by_hand(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward model's tokenizer and the other generator's pairs; every key of every stage is read."""
    monkeypatch.delenv("SCALEQUEST_DATA", raising=False)
    said = "\n".join(found(f"recipes/{profile}/pipeline.yaml", tmp_path))
    assert "stage 'score_responses': tokenizer: models/internlm2-7b-reward-tokenizer: no such model" in said
    assert "stage 'assemble_dataset': source: runs/" in said
    assert "stage 'qft': input: $SCALEQUEST_DATA/gsm8k_train.jsonl.gz: the environment variable" in said
    assert said.count("SCALEQUEST_DATA is not set") == 1
    assert "unknown key" not in said
    assert "published" not in said
    monkeypatch.setenv("SCALEQUEST_DATA", str(tmp_path))
    said = "\n".join(found(f"recipes/{profile}/pipeline.yaml", tmp_path / "runs"))
    missing = "eval/benchmarks/gsm8k.yaml: $SCALEQUEST_DATA/gsm8k_test.jsonl.gz: no such file"
    assert f"'filter_questions': benchmarks: {missing}" in said
    assert "aime24" not in said, "its data may be missing"


@pytest.mark.parametrize("profile", ["qwen2_math_7b", "deepseek_math_7b"])
def test_the_papers_six_files_do(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the paper trains and measures on; what else the filter could have looked at is said."""
    row = gzip.compress(b'{"question": "1 + 1?"}\n')
    for name in (
        "gsm8k_train",
        "gsm8k_test",
        "math_train",
        "math_test",
        "college_math_test",
        "olympiadbench_test",
    ):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(row)
    monkeypatch.setenv("SCALEQUEST_DATA", str(tmp_path))
    steps = plan(load(f"recipes/{profile}/pipeline.yaml"), tmp_path / "runs")
    assert not [line for line in look_ahead(steps, tmp_path / "runs").faults if "SCALEQUEST_DATA" in line]
    assert left_out(steps) == [
        "stage 'filter_questions': benchmarks left out: aime24, amc23, asdiv, gaokao2023en, math500, "
        "minerva_math, svamp, theoremqa",
        "stage 'assemble_dataset': benchmarks left out: aime24, amc23, asdiv, gaokao2023en, math500, "
        "minerva_math, svamp, theoremqa",
    ]


def test_nothing_is_missing_for_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALEQUEST_DATA", raising=False)
    assert found(PIPELINE, tmp_path) == []


def test_every_fault_is_one_line_and_nothing_runs(tmp_path: Path) -> None:
    pipeline = changed(
        tmp_path,
        ("qft", "learning_rate", "fast"),
        ("sft", "num_train_epoch", 2),
        ("solve_questions", "input", [str(tmp_path / "gone.jsonl") + "[:5]"]),
        ("evaluate", "models", {"SFT": "runs/nowhere/sft"}),
        ("qpo", "model_name_or_path", "recipes/nowhere"),
        ("evaluate", "benchmarks", ["eval/benchmarks/gsm9k.yaml"]),
    )
    output = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "recipes/run.py", str(pipeline), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert all(line.startswith("error: stage '") for line in said)
    for words in (
        ["'qft': ", "learning_rate", "'fast'"],
        ["'sft': command line: unknown key '--num_train_epoch'", "did you mean 'num_train_epochs'?"],
        ["'solve_questions': input: ", "gone.jsonl[:5]: no such file or folder"],
        ["'evaluate': models: runs/nowhere/sft: no such model folder"],
        ["'qpo': model_name_or_path: recipes/nowhere: no such model folder"],
        ["'evaluate': benchmarks: eval/benchmarks/gsm9k.yaml: no such file"],
    ):
        assert [line for line in said if all(word in line for word in words)], (words, said)
    assert len(said) == 6
    assert not output.exists()


def test_a_stage_of_several_files_is_read_as_one(tmp_path: Path) -> None:
    """The later file wins, and is the one that is named."""
    content = yaml.safe_load(Path(PIPELINE).read_text())
    (stage,) = (stage for stage in content["stages"] if stage["name"] == "select_solutions")
    above = tmp_path / "above.yaml"
    stage["config"] = [stage["config"], str(above)]
    del stage["args"]
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    above.write_text(f"input: [{tmp_path}/gone.jsonl]\n")
    (fault,) = found(tmp_path / "pipeline.yaml", tmp_path / "runs")
    assert fault == f"stage 'select_solutions': input: {tmp_path}/gone.jsonl: no such file or folder"
    above.write_text("input: [eval/benchmarks/data/tinymath_dev.jsonl.gz]\nrul: reward\n")
    (fault,) = found(tmp_path / "pipeline.yaml", tmp_path / "runs")
    assert fault.startswith(f"stage 'select_solutions': {above}: unknown key 'rul'")


def test_a_stage_that_would_write_over_what_it_reads(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    (output / "sft").mkdir(parents=True)
    (output / "sft/config.json").write_text("{}")
    pipeline = changed(tmp_path, ("sft", "model_name_or_path", str(output / "sft")))
    (fault,) = found(pipeline, output)
    assert fault.startswith("stage 'sft': output_dir: ")
    assert "which this stage reads" in fault


@pytest.mark.parametrize("fork", [False, True])
def test_settings_are_read_in_a_process_of_their_own(fork: bool, tmp_path: Path) -> None:
    """By an interpreter that is started, or by a fork; what ends it is said."""
    output = tmp_path / "runs"
    given = {"num_question": 3, "model_name_or_path": "recipes/tiny/models/tiny-solver"}
    pipeline = small(tmp_path, ("generate", "generate_questions", given))
    (fault,) = look_ahead(plan(load(pipeline), output), output, fork=fork).faults
    assert "unknown key '--num_question'; keys cannot be abbreviated; did you mean 'num_questions'?" in fault
    script = tmp_path / "mine.py"
    script.write_text("RECIPE = None\nprint('read')\nraise RuntimeError('nothing works')\n")
    pipeline.write_text(pipeline.read_text().replace("recipes/generate_questions.py", str(script)))
    with pytest.raises(ConfigError, match=r"settings could not be read: .*nothing works"):
        look_ahead(plan(load(pipeline), output), output, fork=fork)


def small(folder: Path, *stages: tuple[str, str, dict[str, object]]) -> Path:
    """A pipeline of the demo's stages: name, recipe and arguments of each."""
    made = [
        {
            "name": name,
            "script": f"recipes/{recipe}.py",
            "config": f"recipes/tiny/{recipe}.yaml",
            "args": args,
        }
        for name, recipe, args in stages
    ]
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "stages": made}, sort_keys=False))
    return path


def said_of(pipeline: Path, output: Path) -> list[str]:
    """What the child process of the look ahead finds, in this process."""
    steps = plan(load(pipeline), output)
    answers = read_all(requests(steps))
    return [
        f"{step.spec.name}: {fault}"
        for step, one in zip(steps, answers, strict=True)
        for fault in one["faults"]
    ]


def test_an_input_without_the_columns_that_a_stage_needs(tmp_path: Path) -> None:
    """One line for each input; what `columns` names is found."""
    (tmp_path / "problems.csv").write_text("problem,note\n1 + 1?,easy\n")
    (tmp_path / "pairs.jsonl").write_text('{"chosen": "a", "rejected": null}\n')
    (tmp_path / "both.tsv").write_text("prompt\tproblem\nSolve.\t1 + 1?\n")
    (tmp_path / "empty.jsonl").write_text("")
    problems, pairs, both, empty = (
        str(tmp_path / name) for name in ("problems.csv", "pairs.jsonl", "both.tsv", "empty.jsonl")
    )
    pipeline = small(
        tmp_path,
        ("filter", "filter_questions", {"input": [problems, empty]}),
        ("renamed", "filter_questions", {"input": [problems + "[:1]"], "columns": {"question": "note"}}),
        ("unclear", "filter_questions", {"input": [both]}),
        ("named", "filter_questions", {"input": [both], "columns": {"question": "problem"}}),
        ("qpo", "qpo", {"input": [pairs]}),
        ("sft", "sft", {"input": [problems, pairs]}),
    )
    assert said_of(pipeline, tmp_path / "runs") == [
        f"filter: input: {empty}: contains no rows",
        f"unclear: input: {both}: 'question' may be column 'prompt' or 'problem'; say which: columns: "
        "{question: prompt}",
        f"qpo: input: {pairs}: row 1: no 'rejected' (it has chosen); map it with `columns`",
        f"sft: input: {problems}: row 1: no 'response' (it has note, query); map it with `columns`",
        f"sft: input: {pairs}: row 1: no 'query' (it has chosen); map it with `columns`",
    ]


def test_inputs_as_people_have_them(tmp_path: Path) -> None:
    """Every stage that reads questions or pairs takes every format, under the usual names."""
    turns = '[{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]'
    contents = {
        "a.txt": "1 + 1?\n",
        "b.csv": "Problem,Solution\n1 + 1?,2\n",
        "c.tsv": "instruction\toutput\n1 + 1?\t2\n",
        "d.json": f'{{"data": [{{"conversations": {turns}}}]}}',
        "e.jsonl": '{"prompt": "1 + 1?", "completion": "2"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    questions = [str(tmp_path / name) for name in contents]
    pairs = questions[1:]
    read = {"qft": questions, "difficulty": questions, "optimize_questions": questions, "sft": pairs,
            "filter_questions": questions, "solve_questions": questions}  # fmt: skip
    stages = [(recipe, recipe, {"input": inputs}) for recipe, inputs in read.items()]
    parts = ("assemble", "assemble_dataset", {"parts": [{"source": source} for source in pairs]})
    faults = said_of(small(tmp_path, *stages, parts), tmp_path / "runs")
    assert not [fault for fault in faults if str(tmp_path) in fault]
    against = {"contamination": {"against": [{"source": str(tmp_path / "other.csv")}]}}
    (tmp_path / "other.csv").write_text("exercise\n1 + 1?\n")
    pipeline = small(tmp_path, ("filter", "filter_questions", {"input": questions, **against}))
    assert [fault for fault in said_of(pipeline, tmp_path / "runs") if str(tmp_path) in fault] == [
        f"filter: contamination: {tmp_path}/other.csv: row 1: no 'question' (it has exercise); map it with "
        "`contamination.against.column`"
    ]
    (fault,) = said_of(small(tmp_path, ("sft", "sft", {"input": questions})), tmp_path / "runs")
    assert fault == f"sft: input: {questions[0]}: row 1: no 'response' (it has query); map it with `columns`"


def test_of_rows_that_a_stage_will_make_only_what_is_certain_is_said(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "mine.jsonl")
    Path(elsewhere).write_text('{"question": "1 + 1?", "query": "1 + 1?", "response": "2"}\n')
    questions = "${output}/generate_questions"
    pipeline = small(
        tmp_path,
        ("generate_questions", "generate_questions", {}),
        ("qpo", "qpo", {"input": [questions], "model_name_or_path": "recipes/tiny/models/tiny-solver"}),
        ("ranked", "rank_questions", {"input": [questions]}),
        ("filter", "filter_questions", {"input": [questions]}),
        ("solve", "solve_questions", {"input": ["${output}/filter"]}),
        ("sft", "sft", {"input": ["${output}/solve[:10]"]}),
        ("select", "select_solutions", {"input": ["${output}/solve"]}),
        (
            "named",
            "sft",
            {"input": ["${output}/solve"], "columns": {"query": "question", "response": "best"}},
        ),
        ("renamed", "filter_questions", {"input": [questions], "columns": {"problem": "question"}}),
        (
            "judge",
            "judge_questions",
            {"generators": {"a": "${output}/ranked", "b": questions, "c": "${output}/filter"}},
        ),
        (
            "judge_rejected",
            "judge_questions",
            {
                "generators": {"a": "${output}/ranked", "b": "${output}/ranked"},
                "question_columns": {"a": "rejected", "b": "text"},
            },
        ),
        # rows of one's own go on with all their columns
        ("kept", "filter_questions", {"input": [elsewhere]}),
        ("other", "sft", {"input": ["${output}/kept", "${output}/select"]}),
    )
    output = tmp_path / "runs"
    assert said_of(pipeline, output) == [
        f"qpo: input: {output}/generate_questions: its rows will have no 'chosen' and no 'rejected'",
        f"sft: input: {output}/solve[:10]: its rows will have no 'query' and no 'response'",
        f"named: input: {output}/solve: its rows will have no 'best', which is to be the response",
        f"renamed: input: {output}/generate_questions: its rows will have no 'question'",
        f"judge: question_columns.a: {output}/ranked: its rows will have no 'question'",
        f"judge_rejected: question_columns.b: {output}/ranked: its rows will have no 'text', which is to be "
        "the question",
    ]


def test_the_columns_are_those_that_data_stages_write() -> None:
    from scalequest.pipeline.columns import ADDED, WRITTEN
    from scalequest.questions import generation, ranking, rewriting
    from scalequest.solutions import assembly, selection, solving

    modules = {
        "generate_questions": generation, "optimize_questions": rewriting, "rank_questions": ranking,
        "select_solutions": selection, "assemble_dataset": assembly,
    }  # fmt: skip
    assert WRITTEN.keys() == modules.keys()
    for name, module in modules.items():
        assert set(module.COLUMNS) <= WRITTEN[name], name
    assert set(solving.COLUMNS) <= WRITTEN["generate_questions"] | ADDED["solve_questions"]


def test_the_columns_are_those_that_training_stages_render() -> None:
    """The table beside what the training stages render."""
    from types import SimpleNamespace

    from scalequest.pipeline.columns import NEEDED
    from scalequest.training import difficulty_scorer, dpo, grpo, kto, orpo, reward, sft, simpo

    args = SimpleNamespace(
        shuffle_pairs=False,
        paper_exact=False,
        thinking="keep",
        task="solve",
        min_pass_rate=0,
        max_pass_rate=1,
        reward=[],
    )
    trainer = SimpleNamespace(max_length=8, seed=0, max_completion_length=4)
    identity = SimpleNamespace(training_args=trainer, args=args)
    stages = (
        *(sft.QFT, sft.SFT, dpo.QPO, simpo.SIMPO, kto.KTO, orpo.ORPO, grpo.GRPO["solve"]),
        *(difficulty_scorer.DIFFICULTY, reward.REWARD),
    )
    assert {one.name: one.rendering_of(identity).needs for one in stages} == {  # type: ignore[arg-type]
        name: NEEDED[name]
        for name in ("qft", "sft", "qpo", "simpo", "kto", "orpo", "grpo", "difficulty", "reward")
    }


@pytest.mark.parametrize(
    ("recipe", "given", "there"),
    [("qpo", "sigmiod", "sigmoid_norm"), ("simpo", "dpo", "hinge, ipo, sigmoid, simpo")],
)
def test_a_loss_that_trl_does_not_know(recipe: str, given: str, there: str, tmp_path: Path) -> None:
    """Said before the reference pass, with TRL's own list."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"chosen": "a", "rejected": "b"}\n')
    model = "recipes/tiny/models/tiny-solver"
    args = {"input": [str(pairs)], "loss_type": given, "model_name_or_path": model}
    (fault,) = said_of(small(tmp_path, (recipe, recipe, args)), tmp_path / "runs")
    assert f"loss_type: '{given}' is not one of " in fault
    assert there in fault


def test_functions_of_all_stages_are_found_before_the_first_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def keep(row): ...\n\ndef score(row, more): ...\n")
    (tmp_path / "q.jsonl").write_text('{"question": "?", "responses": [], "finish_reasons": []}\n')
    own, common = f"{tmp_path}/mine.py", ("--input", f"{tmp_path}/q.jsonl", "--output_dir", f"{tmp_path}/out")
    asked = [
        ("recipes/filter_questions.py", *common, "--steps", "language", f"{own}:keep"),
        ("recipes/filter_questions.py", *common, "--steps", f"{own}:keeps"),
        ("recipes/score.py", *common, "--judge", "function", "--function", f"{own}:score"),
        (
            *(
                "recipes/judge_questions.py",
                "--generators",
                f"{{a: {tmp_path}/q.jsonl}}",
                "--judge",
                "function",
            ),
            *("--function", "no.such.module:judge", "--output_dir", f"{tmp_path}/out"),
        ),
        ("eval/grade.py", *common, "--function", f"{tmp_path}/gone.py:right"),
    ]
    given = [{"words": words, "finished": False, "fresh": False, "output_dir": "out"} for words in asked]
    assert [one["faults"] for one in read_all(given)] == [
        [],
        [f"steps: {own} has no function 'keeps'"],
        [f"function: {own}:score must take the arguments (row)"],
        ["function: cannot import no.such.module: ModuleNotFoundError: No module named 'no'"],
        [f"function: {tmp_path}/gone.py: no such file"],
    ]
