from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from scalequest.config import (
    ConfigError,
    RunOptions,
    build,
    fingerprint_fields,
    option,
    parse,
    read_yaml,
    required,
    to_dict,
)


class Order(Enum):
    LONGEST = "longest"
    SHORTEST = "shortest"


@dataclass(frozen=True)
class Sampling:
    temperature: float = option(1.0, "0 is greedy")
    top_p: float = option(1.0, "nucleus")
    max_tokens: int = option(512, "most tokens", fingerprint=False)


@dataclass(frozen=True)
class Source:
    path: str = required("where")
    weight: float = option(1.0)


@dataclass(frozen=True)
class Demo:
    input: list[str] = required("sources", fingerprint=False)
    learning_rate: float = option(1e-4, "peak rate; 100 % of it")
    max_length: int | None = option(1024, "longest row")
    shuffle: bool = option(False, "shuffle rows")
    name: str | None = option(None, "a name")
    mode: Literal["fast", "exact"] = option("fast")
    order: Order = option(Order.LONGEST)
    report_to: str | list[str] | None = option("none")
    extra: dict[str, Any] = field(default_factory=dict)
    mix: list[Source] = option(default_factory=list)
    prompt: str = option("")
    sampling: Sampling = option(default_factory=lambda: Sampling(0.7, 0.95, 2048))
    judge: Sampling | None = option(None)

    def __post_init__(self) -> None:
        if self.learning_rate < 0:
            raise ValueError("learning_rate has to be\npositive")


def words(*argv: str) -> Demo:
    (demo,) = parse(Demo, argv=["--input", "x", *argv])
    assert isinstance(demo, Demo)
    return demo


def refused(capsys: pytest.CaptureFixture[str], *argv: str, types: tuple[type, ...] = (Demo,)) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*types, argv=argv)
    assert caught.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error.removeprefix("error: ").rstrip("\n")


# ------------------------------------------------------------------------------------------------------- YAML


def test_yaml_means_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 2e-5\nb: no\nc: 1e5\nd: off\ne: [1, null]\n# nothing\nf: '2e-5'\n")
    expected = {"a": 2e-5, "b": "no", "c": 1e5, "d": "off", "e": [1, None], "f": "2e-5"}
    assert read_yaml(tmp_path / "a.yaml") == expected
    (tmp_path / "a.yaml").write_text("")
    assert read_yaml(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: duplicate key 'a'"),
        ("a:\n  b: 1\n  b: 1\n", "line 3: duplicate key 'b'"),
        ("a: 1\nb: [\n", "line 3: not YAML"),
        ("- 1\n", r"expected a mapping at the top level, got \[1\]"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("a: !!python/object:os.system {}\n", "not YAML"),
        ("a: 2024-13-45\n", "not YAML"),
        ("a: \x01\n", "not YAML"),
    ],
)
def test_bad_yaml_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml: .*{said}") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "--config", str(tmp_path / "b.yaml")).endswith("b.yaml: no such file")
    assert "cannot be read" in refused(capsys, "--config", str(tmp_path))
    (tmp_path / "c.yaml").write_bytes(b"a: \xff")
    assert "c.yaml: cannot be read" in refused(capsys, "--config", str(tmp_path / "c.yaml"))
    assert "duplicate key '--config'" in refused(capsys, "--config", "a.yaml", "--config", "b.yaml")
    assert "--config: expected one or more YAML files" in refused(capsys, "--config")


# ------------------------------------------------------------------------------ what a key and a value may be


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"max_lenght": 64}, "unknown key 'max_lenght'; did you mean 'max_length'?"),
        ({"max-length": 64}, "unknown key 'max-length'; did you mean 'max_length'?"),
        ({"max_len": 64}, "unknown key 'max_len'; keys cannot be abbreviated; did you mean 'max_length'?"),
        ({"max_seq_length": 64}, "unknown key 'max_seq_length'; renamed: use 'max_length'"),
        ({"overwrite_output_dir": True}, "unknown key 'overwrite_output_dir'; see --help for all keys"),
        ({"temperature": 1}, "did you mean 'sampling.temperature' or 'judge.temperature'?"),
        (
            {"sampling": {"temprature": 1}},
            "unknown key 'sampling.temprature'; did you mean 'sampling.temperature'?",
        ),
        (
            {"sampling.temperature": 1},
            "'sampling.temperature'; write it as a mapping, temperature inside sampling",
        ),
        ({"learning_rate": "x" * 500}, "xxx…"),
        ({"zzz": 1}, "unknown key 'zzz'; see --help"),
        ({3: 1}, "unknown key '3'"),
        ({"learning_rate": "fast"}, "learning_rate: expected float, got 'fast'"),
        ({"learning_rate": "2e-5"}, "learning_rate: expected float, got '2e-5'"),
        ({"learning_rate": True}, "learning_rate: expected float, got True"),
        ({"learning_rate": None}, "learning_rate: expected float, got None"),
        ({"max_length": 64.0}, "max_length: expected int | null, got 64.0"),
        ({"max_length": True}, "max_length: expected int | null, got True"),
        ({"shuffle": 1}, "shuffle: expected bool, got 1"),
        ({"shuffle": "yes"}, "shuffle: expected bool, got 'yes'"),
        ({"name": 7}, "name: expected str | null, got 7"),
        ({"mode": "slow"}, "mode: expected fast | exact, got 'slow'"),
        ({"order": "random"}, "order: expected longest | shortest, got 'random'"),
        ({"input": "x.jsonl"}, "input: expected list of str, got 'x.jsonl'"),
        ({"extra": [1]}, "extra: expected map, got [1]"),
        ({"sampling": 0.7}, "sampling: expected a mapping, got 0.7"),
        ({"sampling": None}, "sampling: expected a mapping, got null"),
        ({"mix": [{"path": "a"}, {"pth": "b"}]}, "unknown key 'mix[1].pth'; did you mean 'path'?"),
        ({"mix": [{"weight": 1}]}, "required key 'mix[0].path' is missing"),
        ({"mix": ["a"]}, "mix[0]: expected a mapping, got 'a'"),
        ({"learning_rate": -1}, "Demo: learning_rate has to be positive"),
    ],
)
def test_what_is_wrong_is_named(mapping: dict[Any, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build((Demo,), {"input": ["x"], **mapping}, "recipes/demo.yaml")
    assert str(caught.value).startswith("recipes/demo.yaml: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_right_is_taken() -> None:
    mapping = {
        "input": [],
        "learning_rate": 1,
        "prompt": "\u00bd\n",
        "max_length": None,
        "order": "shortest",
        "report_to": ["a", "b"],
        "extra": {"a": {"b": [1, 2.5, None]}},
        "mix": [{"path": "a"}, {"path": "b", "weight": 2}],
        "sampling": {"temperature": 0},
        "judge": {},
    }
    (demo,) = build((Demo,), mapping)
    assert demo == Demo(
        input=[],
        learning_rate=1.0,
        prompt="½\n",
        max_length=None,
        order=Order.SHORTEST,
        report_to=["a", "b"],
        extra={"a": {"b": [1, 2.5, None]}},
        mix=[Source(path="a"), Source(path="b", weight=2.0)],
        sampling=Sampling(
            0.0, 0.95, 2048
        ),  # what is not given keeps the default of this field, not of the class
        judge=Sampling(),
    )
    assert isinstance(demo.learning_rate, float)
    assert build((Demo,), to_dict(demo)) == (demo,)


def test_a_required_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys) == "command line: required key 'input' is missing (sources)"


def test_two_types_share_keys_only_where_they_mean_the_same() -> None:
    @dataclass(frozen=True)
    class Same:
        max_length: int | None = 1024

    @dataclass(frozen=True)
    class Other:
        max_length: int = 1024

    demo, same = build((Demo, Same), {"input": [], "max_length": 5})
    assert demo.max_length == same.max_length == 5
    with pytest.raises(TypeError, match="max_length is defined in Demo and again, differently, in Other"):
        build((Demo, Other), {})


def test_run_options(capsys: pytest.CaptureFixture[str]) -> None:
    run, demo = build((RunOptions, Demo), {"output_dir": "out", "input": ["a"], "limit": 3})
    assert (run.output_dir, run.limit, run.seed) == ("out", 3, 42)
    assert demo.input == ["a"]
    error = refused(capsys, "--output_dir", "x", "--limit", "0", types=(RunOptions,))
    assert error == "command line: limit: expected at least 1, got 0"


# ----------------------------------------------------------------------------------------------- command line


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "input: [a]\nlearning_rate: 2e-5\nsampling: {temperature: 0.5, top_p: 0.5}\njudge: null\n"
    )
    argv = ["--sampling.temperature", "0.1", "--config", str(path), "--input", "b", "c", "--judge.top_p=0.2"]
    (demo,) = parse(Demo, argv=argv)
    assert demo.input == ["b", "c"]
    assert demo.learning_rate == 2e-5
    assert demo.sampling == Sampling(0.1, 0.5, 2048)
    assert demo.judge == Sampling(top_p=0.2)


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--learning_rate", "2e-5"], "learning_rate", 2e-5),
        (["--learning_rate=-0"], "learning_rate", 0.0),
        (["--max_length", "null"], "max_length", None),
        (["--shuffle"], "shuffle", True),
        (["--shuffle", "true"], "shuffle", True),
        (["--shuffle", "false"], "shuffle", False),
        (["--name", "7"], "name", "7"),
        (["--name", "true"], "name", "true"),
        (["--name", "a: b"], "name", "a: b"),
        (["--name", "# a"], "name", "# a"),
        (["--name", "a #b"], "name", "a #b"),
        (["--name", "'a'"], "name", "'a'"),
        (["--name", "2024-01-01"], "name", "2024-01-01"),
        (["--name", "@[{%"], "name", "@[{%"),
        (["--name=--x"], "name", "--x"),
        (["--name", "null"], "name", None),
        (["--prompt", ""], "prompt", ""),
        (["--prompt", "{question}"], "prompt", "{question}"),
        (["--prompt", "null"], "prompt", "null"),
        (["--mode", "exact"], "mode", "exact"),
        (["--order", "shortest"], "order", Order.SHORTEST),
        (["--report_to", "wandb"], "report_to", "wandb"),
        (["--report_to", "wandb", "tensorboard"], "report_to", ["wandb", "tensorboard"]),
        (["--extra", "{a: 1, b: [x]}"], "extra", {"a": 1, "b": ["x"]}),
        (["--mix", "[{path: a}]"], "mix", [Source(path="a")]),
        (["--sampling", "{top_p: 0.5}"], "sampling", Sampling(0.7, 0.5, 2048)),
        (["--judge", "null"], "judge", None),
    ],
)
def test_words(argv: list[str], key: str, value: Any) -> None:
    demo = words(*argv)
    assert getattr(demo, key) == value
    assert demo == dataclasses.replace(words(), **{key: value})


@pytest.mark.parametrize(
    ("given", "value"), [(["a"], ["a"]), (["7", "x"], ["7", "x"]), (["[a, b]"], ["a", "b"])]
)
def test_lists(given: list[str], value: list[str]) -> None:
    (demo,) = parse(Demo, argv=["--input", *given])
    assert demo.input == value


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--max_lenght", "64"], "unknown key '--max_lenght'; did you mean 'max_length'?"),
        (
            ["--max_len", "64"],
            "unknown key '--max_len'; keys cannot be abbreviated; did you mean 'max_length'?",
        ),
        (["--temp", "1"], "did you mean 'sampling.temperature' or 'judge.temperature'?"),
        (["--warmup_ratio", "0.1"], "unknown key '--warmup_ratio'; see --help"),
        (["--learning_rate", "fast"], "learning_rate: expected float, got 'fast'"),
        (["--learning_rate"], "learning_rate: needs a value, float"),
        (["--shuffle", "yes"], "shuffle: expected bool, got 'yes'"),
        (["--shuffle", "1"], "shuffle: expected bool, got '1'"),
        (["--max_length", "64", "65"], "max_length: expected int | null, got '64 65'"),
        (["--max_length", "64", "--max_length", "64"], "duplicate key '--max_length'"),
        (["--max_length=64", "65"], "unexpected '65'"),
        (["--sampling.temp", "1"], "did you mean 'sampling.temperature'"),
        (["--sampling", "0.7"], "sampling: expected a mapping, got 0.7"),
        (["--input", "[a, b"], "input: expected list of str, got '[a, b'"),
        (["-c", "x"], "unexpected '-c'"),
        (["x.yaml"], "unexpected 'x.yaml'"),
        (["--"], "unknown key '--'"),
    ],
)
def test_words_that_are_refused(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    first = [] if argv[0] in ("--input", "-c", "x.yaml") else ["--input", "x"]
    error = refused(capsys, *argv, *first)
    assert error.startswith("command line: ")
    assert said in error


def test_a_typo_on_the_command_line_is_told_before_what_it_leads_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "did you mean 'input'" in refused(capsys, "--inputs", "x")


def test_only_the_first_rank_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as caught:
        parse(Demo, argv=["--zzz"])
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--zzz", "--help"]])
def test_help(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(RunOptions, Demo, argv=argv, description="Does something.\n\nAt length.")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "Does something.\n\nAt length." in out
    assert "RunOptions:\n  --output_dir  str  (required)\n      output folder of this stage\n" in out
    assert "  --learning_rate  float  (default: 0.0001)\n      peak rate; 100 % of it\n" in out
    assert "  --order  longest | shortest  (default: longest)\n" in out
    assert "  --sampling.temperature  float  (default: 0.7)\n      0 is greedy\n" in out
    assert "  --max_length  int | null  (default: 1024)\n" in out
    assert max(map(len, out.splitlines())) <= 110


# ---------------------------------------------------------------------------------------------------- records


def test_fingerprint_fields_leave_out_what_changes_no_row() -> None:
    demo = Demo(input=["a"])
    fields = fingerprint_fields(demo)
    assert "input" not in fields
    assert fields["sampling"] == {"temperature": 0.7, "top_p": 0.95}
    assert fields["order"] == "longest"
    assert fields["judge"] is None


def test_secrets_are_left_out() -> None:
    @dataclass(frozen=True)
    class Server:
        url: str = "http://localhost"
        api_key: str | None = "abc"
        eos_token: str = "</s>"

    @dataclass(frozen=True)
    class Outer:
        server: Server = field(default_factory=Server)

    assert to_dict(Outer()) == {
        "server": {"url": "http://localhost", "api_key": "<secret>", "eos_token": "</s>"}
    }


# ---------------------------------------------------------------------------------------------- TRL's configs


@pytest.fixture(scope="module")
def trl() -> Any:
    return pytest.importorskip("trl")


CPU = {"output_dir": "out", "use_cpu": True, "bf16": False}


def test_trl_configs_are_built(trl: Any) -> None:
    mapping = CPU | {
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "report_to": ["none"],
        "model_init_kwargs": {"use_kernels": True},
        "optim": "adamw_torch",
        "max_length": None,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "num_train_epochs": 1,
        "model_name_or_path": "runs/model",
        "dtype": "bfloat16",
        "lora_target_modules": ["q_proj", "v_proj"],
    }
    args, model = build((trl.SFTConfig, trl.ModelConfig), mapping)
    assert isinstance(args, trl.SFTConfig)
    assert (args.learning_rate, args.lr_scheduler_type.value, args.warmup_steps) == (2e-5, "cosine", 0.1)
    assert args.model_init_kwargs == {"use_kernels": True}
    assert isinstance(args.num_train_epochs, float)
    assert (model.dtype, model.lora_target_modules) == ("bfloat16", ["q_proj", "v_proj"])
    dpo, _ = build(
        (trl.DPOConfig, trl.ModelConfig), CPU | {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 1]}
    )
    assert dpo.loss_weights == [1.0, 1.0]


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"max_lenght": 64}, "unknown key 'max_lenght'; did you mean 'max_length'?"),
        ({"evaluation_strategy": "no"}, "renamed: use 'eval_strategy'"),
        ({"learning_rate": "fast"}, "learning_rate: expected float, got 'fast'"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type: expected linear | cosine"),
        ({"warmup_ratio": 0.1}, "renamed: use 'warmup_steps' (a value below 1 is a ratio)"),
        ({"eval_strategy": "steps", "eval_steps": None, "logging_steps": 0}, "SFTConfig: "),
        ({"_n_gpu": 2}, "unknown key '_n_gpu'"),
        ({"torch_dtype": "bfloat16"}, "renamed: use 'dtype'"),
    ],
)
def test_trl_configs_are_strict(trl: Any, mapping: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build((trl.SFTConfig, trl.ModelConfig), CPU | mapping, "sft.yaml")
    assert str(caught.value).startswith("sft.yaml: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trl_configs_are_recorded_and_read_back(trl: Any) -> None:
    given = {
        "learning_rate": 1e-3,
        "hub_token": "abc",
        "dataloader_num_workers": 3,
        "dataloader_drop_last": True,
    }
    (args,) = build((trl.SFTConfig,), CPU | given)
    record = to_dict(args)
    assert record["hub_token"] == "<secret>"
    (again,) = build((trl.SFTConfig,), record)
    assert to_dict(again) == record
    fields = fingerprint_fields(args)
    assert fields["learning_rate"] == 1e-3
    assert fields["dataloader_drop_last"] is True  # one batch less an epoch
    assert not {"output_dir", "use_cpu", "logging_steps", "weight_decay", "dataloader_num_workers"} & set(
        fields
    )


def test_trl_help_lists_every_key(trl: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(trl.SFTConfig, trl.ModelConfig, argv=["--help"])
    out = capsys.readouterr().out
    for item in (*dataclasses.fields(trl.SFTConfig), *dataclasses.fields(trl.ModelConfig)):
        if item.init and item.name != "parallelism_config":
            assert f"\n  --{item.name}  " in out
