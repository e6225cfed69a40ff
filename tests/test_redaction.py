"""No secret in anything that leaves the process."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, build, fingerprint_fields, option, parse, read_yaml, to_dict
from scalequest.pipeline.runner import load, plan
from scalequest.redaction import SECRET, is_secret, redacted
from scalequest.stage.folder import Stage, StageError
from scalequest.tracking import Tracker

ROOT = Path(__file__).parents[1]
KEY = "Zq7-opaque-4711"
HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "apiKey", "API_KEY", "api-key", "x-api-key", "apikey", "OPENAI_API_KEY", "openai_key"),
        *("hub_token", "HF_TOKEN", "token", "access_token", "authToken", "authtoken", "refresh-token"),
        *("password", "db_password", "PGPASSWORD_2", "passwd", "passphrase", "pwd", "pass"),
        *("secret", "client_secret", "aws_secret_access_key", "AWS_ACCESS_KEY_ID".removesuffix("_ID")),
        *("credentials", "Authorization", "Proxy-Authorization", "cookie", "Set-Cookie", "auth"),
        *(
            "key",
            "private_key",
            "signing-key",
            "X-Amz-Signature",
            "sig",
            "api%5Fkey",
            "token_value",
            "api_keys",
        ),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)
    for value in ({name: KEY}, {"a": [{"b": {name: KEY}}]}, {name: [KEY]}, {name: {"x": KEY}}):
        assert KEY not in json.dumps(redacted(value))
    assert KEY not in redacted(f"https://host/v1?a=b&{name}={KEY}&c=d")


@pytest.mark.parametrize(
    "name",
    [
        *("eos_token", "pad_token", "bos_token", "unk_token", "stop_token", "image_token", "max_token"),
        *("max_tokens", "stop_tokens", "special_tokens", "tokenizer", "token_limit", "pad_token_id"),
        *("key_variable", "keys", "monkey", "author", "pattern", "passes", "signal", "bypass", "compass"),
        *("question", "url", "model", "seed", "prompt", "input", "answer_after", "score_column"),
    ],
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)
    assert redacted({name: "</s>"}) == {name: "</s>"}


@pytest.mark.parametrize(
    "text",
    [
        "hf_aB3dE5gH7jK9mN1pQ3sT5v",
        "sk-test-4711-abcdef",
        "sk-proj-abc123DEF456ghi789",
        "ghp_aB3dE5gH7jK9mN1pQ3sT5vW7x",
        "github_pat_11ABCDEFG0123456789_abc",
        "glpat-abcdefghij0123456789",
        "xoxb-123456789012-abcdefghij",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "wandb_v1_abcdef0123456789ABCDEF",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7 cut off",
    ],
)
def test_shapes_of_secrets(text: str) -> None:
    for value in (text, f"before {text} after", {"a": [text]}, {text: 1}):
        assert text not in json.dumps(redacted(value)).encode().decode("unicode_escape")
    assert redacted(f"({text})") == f"({SECRET})" or text.endswith("off")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/v1", "https://<secret>@host/v1"),
        ("https://me:p@ss@host/v1", "https://<secret>@host/v1"),
        ("https://ghtoken@github.com/a/b", "https://<secret>@github.com/a/b"),
        ("postgresql+psycopg://u:p@db:5432/x", "postgresql+psycopg://<secret>@db:5432/x"),
        ("http://h/v1?api_key=abc&x=1", "http://h/v1?api_key=<secret>&x=1"),
        ("http://h/v1?x=1&access_token=abc#f", "http://h/v1?x=1&access_token=<secret>#f"),
        ("http://h/b?sv=1&sig=a%2Fb%3D", "http://h/b?sv=1&sig=<secret>"),
        ("AccountName=a;AccountKey=abc==;Suffix=x", "AccountName=a;AccountKey=<secret>;Suffix=x"),
        ("OPENAI_API_KEY=abc python x.py", "OPENAI_API_KEY=<secret> python x.py"),
        ("--api_key abc --seed 1", "--api_key <secret> --seed 1"),
        ("--api-key=abc --seed 1", "--api-key=<secret> --seed 1"),
        ("--password 'a b' --seed 1", "--password '<secret>' --seed 1"),
        ("""--extra '{"api_key": "abc", "n": 1}'""", """--extra '{"api_key": "<secret>", "n": 1}'"""),
        ('"{\\"api_key\\": \\"abc\\"}"', '"{\\"api_key\\": \\"<secret>\\"}"'),
        ("{'token': 'abc', 'n': 1}", "{'token': '<secret>', 'n': 1}"),
        ("{api_key: abc, n: 1}", "{api_key: <secret>, n: 1}"),
        ("Authorization: Bearer abc", "Authorization: <secret>"),
        ("sent Bearer aBc.123-x", "sent Bearer <secret>"),
        ("X-Api-Key: abc", "X-Api-Key: <secret>"),
    ],
)
def test_secrets_inside_texts(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a.yaml: hub_token: expected str | null, got 3",
        "give settings as --key value",
        "command line: unknown key '--api_key'; did you mean 'seed'?",
        "hub:owner/name@0123abc:train and s3://bucket/a@b",
        "Basic arithmetic: 2 + 3 = 5; max_tokens=512, eos_token=</s>",
        "Qwen2ForSequenceClassification on sk-learn, a risk-averse task-list-2024",
        "http://localhost:8000/v1",
        "token=5",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert redacted(text) == text


def test_lists_of_words_and_pairs() -> None:
    assert redacted(["--api-key", KEY, "--seed", "1"]) == ["--api-key", SECRET, "--seed", "1"]
    assert redacted(["api_key", KEY]) == ["api_key", SECRET]
    assert redacted({"env": [{"name": "HF_TOKEN", "value": KEY}]})["env"][0]["value"] == SECRET
    assert redacted({"password": 4711, "pad_token": 2, "token": None}) == {
        "password": SECRET,
        "pad_token": 2,
        "token": None,
    }


def test_a_key_of_wandb_is_no_commit() -> None:
    assert redacted({"extra": {"x": HEX}}) == {"extra": {"x": SECRET}}
    told = {"model_revision": HEX, "revisions": {"a": HEX}, "sha256": {"p": HEX}, "inputs": [HEX]}
    assert redacted(told) == told


def test_what_the_environment_holds_is_hidden_but_changes_no_fingerprint(monkeypatch: Any) -> None:
    monkeypatch.setenv("MY_KEY", "only-the-environment-4711")
    monkeypatch.setenv("SSH_KEY", "/home/me/.ssh/id_rsa4")
    told = {"note": "x only-the-environment-4711 y /home/me/.ssh/id_rsa4"}
    assert redacted(told) == {"note": f"x {SECRET} y /home/me/.ssh/id_rsa4"}
    assert redacted(told, environment=False) == told


def test_no_preset_and_no_template_holds_what_looks_like_a_secret() -> None:
    found = 0
    for path in [*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("eval/**/*.yaml"), *ROOT.glob("src/**/*.yaml")]:
        content = read_yaml(path)
        assert redacted(content, environment=False) == json.loads(json.dumps(content, default=str)), path
        found += 1
    assert found > 100


# ------------------------------------------------------------------------------------- where settings leave


@dataclass(frozen=True)
class Server:
    url: str = option("http://h/v1")
    extra: dict[str, Any] = option(default_factory=dict)


@dataclass(frozen=True)
class Demo:
    server: Server = option(default_factory=Server)
    note: str | None = option(None)
    hub_token: str | None = option(None)


LEAKS = {
    "server": {
        "url": f"https://me:{KEY}@host/v1?api_key={KEY}",
        "extra": {"api_key": KEY, "headers": {"Authorization": f"Bearer {KEY}"}, "n": [{"password": KEY}]},
    },
    "note": "hf_aB3dE5gH7jK9mN1pQ3sT5v",
    "hub_token": KEY,
}


def leaks(text: str) -> bool:
    return KEY in text or "hf_aB3" in text


def test_a_config_is_recorded_without_its_secrets() -> None:
    (demo,) = build((Demo,), LEAKS)
    for record in (to_dict(demo), fingerprint_fields(demo)):
        assert not leaks(json.dumps(record))
        assert record["server"]["extra"]["api_key"] == SECRET
    assert demo.server.extra["api_key"] == KEY


def test_a_stages_folder_holds_no_secret_and_goes_on_with_a_new_key(tmp_path: Path) -> None:
    def opened(key: str, note: str = "a") -> Stage:
        (demo,) = build((Demo,), {"server": {"extra": {"api_key": key}}, "note": note})
        return Stage.open(
            tmp_path,
            name="s",
            version=1,
            config={**to_dict(demo), "also": {"token": key}},
            fingerprint={**fingerprint_fields(demo), "also": {"token": key}},
            inputs={f"https://me:{key}@host/data.jsonl": "f00d"},
        )

    stage = opened(KEY)
    stage.blocks.cut(1, 1)
    stage.blocks.write(0, [{"id": "a"}])
    stage.finish(rows_in=1, card="# card")
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert not leaks(file.read_bytes().decode(errors="replace")), file
    assert opened("another-key-0815").finished
    with pytest.raises(StageError, match="note: ") as caught:
        opened(KEY, note="b")
    assert not leaks(str(caught.value))


def test_a_folder_of_an_older_release_goes_on(tmp_path: Path) -> None:
    """It wrote keys into its receipt, and its fingerprint was of them."""
    opened = {"name": "s", "version": 1, "config": {}}
    Stage.open(tmp_path, fingerprint={"extra": {"api_key": "x"}, "n": 1}, **opened).close()
    path = tmp_path / "receipt.json"
    receipt = json.loads(path.read_text())
    receipt["fingerprint_fields"]["extra"]["api_key"] = KEY
    path.write_text(json.dumps({**receipt, "fingerprint": "0123456789abcdef"}))
    Stage.open(tmp_path, fingerprint={"extra": {"api_key": KEY}, "n": 1}, **opened).close()
    assert not leaks(path.read_text())
    path.write_text(json.dumps({**receipt, "fingerprint": "0123456789abcdef"}))
    with pytest.raises(StageError, match="n: 1 -> 2") as caught:
        Stage.open(tmp_path, fingerprint={"extra": {"api_key": KEY}, "n": 2}, **opened)
    assert not leaks(str(caught.value))


def test_errors_quote_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    wrong: list[dict[str, Any]] = [
        {"hub_token": 4711, "note": KEY},
        {"server": {"extra": f'{{"api_key": "{KEY}"}}'}},
        {"server": {"extra": [{"api_key": KEY}]}},
        {"server": f"https://me:{KEY}@host"},
        {"hub_token": [KEY]},
        {f"https://me:{KEY}@host": 1},
    ]
    for settings in wrong:
        with pytest.raises(ConfigError) as caught:
            build((Demo,), settings)
        assert not leaks(str(caught.value)), settings
        assert "4711" not in str(caught.value)
    with pytest.raises(SystemExit):
        parse(Demo, argv=["--hub_token", f"[{KEY}]", "--server", f"{{extra: {{token: {KEY}}}, urll: 1}}"])
    assert not leaks(capsys.readouterr().err)
    assert not leaks(str(StageError(f"GET https://me:{KEY}@host?token={KEY}")))


def test_wandb_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(
        sys, "argv", ["x.py", "--server.extra", json.dumps(LEAKS["server"]), "--hub_token", KEY]
    )
    upstream = {f"https://me:{KEY}@host/data": "f00d"}
    with Tracker.start(
        stage="s", output_dir=tmp_path, config=LEAKS, fingerprint="abc", upstream=upstream
    ) as tracker:
        tracker.artifact("a", "dataset", tmp_path, {"token": KEY})
    assert sys.argv[-1] == KEY
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".wandb"]
    for file in files:
        assert KEY.encode() not in file.read_bytes(), file


def test_a_pipeline_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.path.insert(0, str(ROOT / "recipes"))
    import run as script

    sys.path.pop(0)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "stage.py").write_text("import sys; print('given', len(sys.argv)); sys.exit(3)\n")
    path = tmp_path / "p.yaml"
    path.write_text(
        f"name: p\nenv: {{HF_TOKEN: {KEY}, N: '1'}}\nvars: {{k: {KEY}}}\nstages:\n  - name: a\n"
        f"    script: {tmp_path}/stage.py\n    args:\n      server.extra: {{api_key: '${{k}}', n: 1}}\n"
        '      hub_token: ${OPENAI_API_KEY}\n      more: \'{"token": "${k}"}\'\n'
        f"      url: https://me:{KEY}@host/v1\n      words: [--api-key, '${{k}}']\n      seed: 3\n"
    )
    (step,) = plan(load(path), tmp_path / "out")
    assert KEY in " ".join(step.command)
    assert not leaks(step.shown)
    assert shlex.split(step.shown)[-2:] == ["--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["run.py", str(path), "--output", str(tmp_path / "out")])
    assert script.main(script.parser().parse_args([*sys.argv[1:], "--dry-run"])) == 0
    assert "N=1" in (shown := capsys.readouterr().out)
    assert not leaks(shown)
    assert script.main(script.parser().parse_args(sys.argv[1:])) == 3
    assert not leaks(capsys.readouterr().out)
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or not leaks(file.read_text()), file
