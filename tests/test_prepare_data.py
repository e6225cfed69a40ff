"""The folder of train sets and benchmarks, made by the command from servers good and bad."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from file_server import FileServer, Got, Sent
from real_tokenizers import package_file
from scalequest.chat import bind, load_format, load_tokenizer
from scalequest.config import ConfigError
from scalequest.data.authors_prompts import authors_prompts
from scalequest.data.convert import INSTRUCTION, rows_sha256, to_rows
from scalequest.data.internlm2_tokenizer import fast_tokenizer
from scalequest.data.sources import TABLE, DataSet, Source, load_table
from scalequest.questions.prompts import load_prompt
from scalequest.records import Row, read_rows
from scalequest.solutions.rewards import reward_ids

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts/prepare_data.py"))
OURS = load_table()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS: dict[str, list[Row]] = {
    "sums_train": [{"question": f"{n} + {n}? ½", "answer": f"#### {2 * n}"} for n in range(4000)],
    "sums_test": [{"question": "7 + 8?", "answer": "#### 15"}],
    "proofs_test": [{"id": 3, "answer": [1, 2.0]}, {"answer": None, "id": 4}],
}


@dataclass
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def words_for(output: Path, *words: object) -> list[str]:
    patience = ("--timeout", "20", "--retries", "3", "--wait", "0.01")
    return ["--output_dir", str(output), *patience, *map(str, words)]


def run(output: Path, *words: object, **variables: str) -> Done:
    """The command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in {*os.environ} - {*environment()}:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = SCRIPT["main"](SCRIPT["parser"]().parse_args(words_for(output, *words)))
    assert "Traceback" not in err.getvalue()
    return Done(status, out.getvalue(), err.getvalue())


def started(output: Path, *words: object) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    command = [sys.executable, "scripts/prepare_data.py", *words_for(output, *words)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), cwd=ROOT
    )


def environment() -> dict[str, str]:
    """Ours without what would send requests elsewhere."""
    mirrors = ("http_proxy", "https_proxy", "all_proxy", "hf_endpoint", "scalequest_mirror")
    return {name: value for name, value in os.environ.items() if name.lower() not in mirrors}


# ------------------------------------------------------------------------------------- upstream, written back


def lines(rows: list[Row], *, ascii_only: bool) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def upstream(rows: list[Row], one: DataSet, source: Source) -> bytes:
    """What upstream's file has to be for the conversion to give `rows`."""
    if source.layout == "json_list":
        return json.dumps(rows, indent=2).encode()
    if source.layout == "json_lines":
        return lines(rows, ascii_only=one.name != "olympiadbench_test")
    given = {"level": [row["level"] for row in rows], "type": [row["subject"] for row in rows]}
    if source.layout == "math":
        return parquet({key: [row[key] for row in rows] for key in ("problem", "solution")} | given)
    asked = [[{"role": "user", "content": row["problem"] + INSTRUCTION}] for row in rows]
    truth = [{"ground_truth": {"solution": row["solution"]}, "style": "rule"} for row in rows]
    return parquet({"prompt": asked, "reward_model": truth} | given)


def parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def path_of(source: Source) -> str:
    return OURS.url(source, ["http://x"]).removeprefix("http://x")


def without_parquet_sums(folder: Path) -> Path:
    """Our table, but for the sums of files whose bytes depend on who writes them."""
    content = yaml.safe_load(TABLE.read_text())
    for one in content["sets"]:
        for source in one["sources"]:
            if source["path"].endswith(".parquet"):
                source.pop("sha256", None)
    path = folder / "sources.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.data
def test_every_file_is_made_from_upstreams_layout(tmp_path: Path, data_dir: Path) -> None:
    """With the sums of upstream's own files where the table has them, so the rows are upstream's."""
    sets = OURS.sets
    files = {
        path_of(one.sources[0]): upstream(read_rows(data_dir / one.file), one, one.sources[0]) for one in sets
    }
    output, table = tmp_path / "data", without_parquet_sums(tmp_path)
    with FileServer(files).running() as server:
        done = run(output, "--sources", table, "--mirror", server.url)
        assert done.returncode == 0, done.stderr
        assert len(server.got) == len(sets)
        before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
        again = run(output, "--sources", table, "--mirror", server.url)
        assert (again.returncode, len(server.got)) == (0, len(sets)), "what is there is not asked for again"
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    assert set(before) == {one.file for one in sets}, "nothing else is left there"
    for one in sets:
        made, given = (gzip.decompress((folder / one.file).read_bytes()) for folder in (output, data_dir))
        assert made == given
        row = next(line for line in done.stdout.splitlines() if line.startswith(f"{one.name} "))
        assert one.licence in row
        assert one.sources[0].label in row
        assert row.endswith("made")
    assert again.stdout.count("there already") == 2 * len(sets)
    assert f"export SCALEQUEST_DATA={output}" in done.stdout


@pytest.mark.data
def test_every_other_source_gives_the_same_rows(data_dir: Path) -> None:
    others = [(one, source) for one in OURS.sets for source in one.sources[1:]]
    assert {source.layout for _, source in others} == {"json_lines", "json_list", "math_prompts"}
    for one, source in others:
        rows = read_rows(data_dir / one.file)
        assert to_rows(upstream(rows, one, source), source.layout, one.split) == rows


@pytest.mark.data
def test_the_published_sums_are_those_of_the_rows(data_dir: Path) -> None:
    """Rows written back as upstream writes them have the sums that others have published of its files."""
    import hashlib

    known = [(one, source) for one in OURS.sets for source in one.sources if source.sha256]
    checked = 0
    for one, source in known:
        if source.layout == "json_lines":
            content = upstream(read_rows(data_dir / one.file), one, source)
            assert hashlib.sha256(content).hexdigest() == source.sha256, one.name
            checked += 1
    assert checked == 5


def test_every_file_that_a_yaml_names_is_in_the_table() -> None:
    import re

    pages = [*ROOT.glob("recipes/*/*.yaml"), *ROOT.glob("eval/benchmarks/*.yaml")]
    named = {
        name for page in pages for name in re.findall(r"\$\{?SCALEQUEST_DATA\}?/([\w.]+)", page.read_text())
    }
    assert named <= {one.file for one in OURS.sets}
    assert len(named) == 14


def test_a_pin_is_a_commit_unless_it_is_marked() -> None:
    table = OURS
    for entry in (*table.sets, *table.extras):
        for source in entry.sources:
            assert not source.confirmed or len(source.revision) == 40, source
            assert table.url(source).startswith("https://")


# --------------------------------------------------------------------------------- a small table, bad servers


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three sets on two hosts; the last has a second source."""

    def source(name: str, host: str = "github") -> dict[str, Any]:
        return {"host": host, "repository": "own/sums", "revision": COMMIT, "path": f"{name}.jsonl"}

    sets = [
        {
            "name": name,
            "rows": len(rows),
            "sha256": rows_sha256(rows),
            "licence": "MIT",
            "sources": [source(name)],
        }
        for name, rows in ROWS.items()
    ]
    sets[-1]["sources"] = [source("gone", "hub"), source("proofs_test")]
    hosts = {
        "github": "http://one.invalid/{repository}/{revision}/{path}",
        "hub": "http://two.invalid/datasets/{repository}/resolve/{revision}/{path}",
    }
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({"hosts": hosts, "sets": sets, "extras": []}))
    return path


@pytest.fixture
def server() -> Iterator[FileServer]:
    files = {f"/own/sums/{COMMIT}/{name}.jsonl": lines(rows, ascii_only=False) for name, rows in ROWS.items()}
    with FileServer(files).running() as running:
        yield running


def small(output: Path, table: Path, server: FileServer, *words: object, **variables: str) -> Any:
    return run(output, "--sources", table, "--mirror", server.url, *words, **variables)


def holds(output: Path, name: str) -> bool:
    return read_rows(output / f"{name}.jsonl.gz") == ROWS[name]


def test_a_second_source_is_asked_where_the_first_lacks_the_file(
    tmp_path: Path, table: Path, server: FileServer
) -> None:
    done = small(tmp_path / "data", table, server)
    assert done.returncode == 0, done.stderr
    assert all(holds(tmp_path / "data", name) for name in ROWS)
    assert len(server.asked("gone.jsonl")) == 1, "a 404 is not tried again"
    assert done.stderr.splitlines() == [
        f"warning: proofs_test: {server.url}/datasets/own/sums/resolve/{COMMIT}/gone.jsonl: "
        "status 404 Not Found"
    ]


def test_only_what_is_asked_for(tmp_path: Path, table: Path, server: FileServer) -> None:
    assert small(tmp_path / "data", table, server, "--only", "sums").returncode == 0
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "sums_train.jsonl.gz",
        "sums_test.jsonl.gz",
    }
    listed = small(tmp_path / "data", table, server, "--list")
    assert [line.split()[-1] for line in listed.stdout.splitlines()[1:3]] == ["there", "there"]
    assert listed.stdout.splitlines()[3].endswith("not there")
    assert len(server.got) == 2
    wrong = small(tmp_path / "data", table, server, "--only", "sum_train")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: --only: unknown set 'sum_train'; did you mean 'sums_train'?\n"


def test_a_server_that_fails_twice_is_asked_a_third_time(
    tmp_path: Path, table: Path, server: FileServer
) -> None:
    server.behave = lambda got, before: (
        Sent(500 if before == 0 else 429, {"Retry-After": "0"}) if before < 2 else Sent()
    )
    done = small(tmp_path / "data", table, server, "--only", "sums_test")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.got) == 3
    assert holds(tmp_path / "data", "sums_test")


def test_a_server_that_always_fails_is_one_line(tmp_path: Path, table: Path, server: FileServer) -> None:
    server.behave = lambda got, before: Sent(503) if "sums_test" in got.path else Sent()
    done = small(tmp_path / "data", table, server, "--only", "sums")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"warning: sums_test: {server.url}/own/sums/{COMMIT}/sums_test.jsonl: status 503 Service Unavailable "
        "(4 tries)",
        "error: missing: sums_test; run the same command again to retry them",
    ]
    assert done.stdout.splitlines()[-1].split()[-1] == "MISSING"
    assert holds(tmp_path / "data", "sums_train"), "the other sets are made all the same"
    server.behave = lambda got, before: Sent()
    assert small(tmp_path / "data", table, server, "--only", "sums").returncode == 0
    assert len(server.asked("sums_train.jsonl")) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_that_is_cut_is_gone_on_with(
    ranges: bool, tmp_path: Path, table: Path, server: FileServer
) -> None:
    server.behave = lambda got, before: Sent(cut=50_000 if before == 0 else None, ranges=ranges)
    done = small(tmp_path / "data", table, server, "--only", "sums_train")
    assert done.returncode == 0, done.stderr
    assert server.asked("sums_train.jsonl") == [None, "bytes=50000-"]
    assert holds(tmp_path / "data", "sums_train")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["sums_train.jsonl.gz"]


def test_another_file_is_refused_and_not_kept(tmp_path: Path, table: Path, server: FileServer) -> None:
    server.behave = lambda got, before: Sent(body=lines(ROWS["sums_test"] * 2, ascii_only=True))
    done = small(tmp_path / "data", table, server, "--only", "sums_test")
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert first.startswith(
        "warning: sums_test: own/sums@0123456789ab: sums_test.jsonl: unexpected rows: got 2 with"
    )
    assert not (tmp_path / "data").exists()
    server.behave = lambda got, before: Sent(body=b"<html>log in</html>")
    assert (
        "does not have the layout 'json_lines'"
        in small(tmp_path / "data", table, server, "--only", "sums_test").stderr
    )

    content = yaml.safe_load(table.read_text())
    content["sets"][1]["sources"][0]["sha256"] = "0" * 64
    table.write_text(yaml.safe_dump(content))
    server.behave = lambda got, before: Sent()
    done = small(tmp_path / "data", table, server, "--only", "sums_test")
    assert (done.returncode, "sums_test.jsonl: unexpected content: its sha256 is" in done.stderr) == (1, True)


def test_a_server_that_hangs(tmp_path: Path, table: Path, server: FileServer) -> None:
    server.behave = lambda got, before: Sent(hang=30.0)
    begin = time.monotonic()
    done = small(
        tmp_path / "data", table, server, "--only", "sums_test", "--timeout", "0.2", "--retries", "1"
    )
    assert time.monotonic() - begin < 25
    assert (done.returncode, "no response within 0.2 s (2 tries)" in done.stderr) == (1, True)
    server.behave = lambda got, before: Sent(hang=30.0 * (before == 2))
    assert small(tmp_path / "data", table, server, "--only", "sums_test", "--timeout", "1").returncode == 0


def test_redirects_are_followed_as_far_as_it_makes_sense(
    tmp_path: Path, table: Path, server: FileServer
) -> None:
    server.files["/elsewhere"] = server.files.pop(f"/own/sums/{COMMIT}/sums_test.jsonl")

    def sent(got: Got, before: int) -> Sent:
        if got.path == "/elsewhere":
            return Sent(cut=5 if before == 0 else None)
        return Sent(302, {"Location": "/elsewhere"})

    server.behave = sent
    assert small(tmp_path / "data", table, server, "--only", "sums_test").returncode == 0
    assert server.asked("/elsewhere") == [None, "bytes=5-"]
    server.behave = lambda got, before: Sent(302, {"Location": got.path})
    done = small(tmp_path / "other", table, server, "--only", "sums_test")
    assert done.returncode == 1
    assert "redirects" in done.stderr


def test_a_coding_that_was_not_asked_for_is_refused(tmp_path: Path, table: Path, server: FileServer) -> None:
    server.behave = lambda got, before: Sent(headers={"Content-Encoding": "gzip"})
    done = small(tmp_path / "data", table, server, "--only", "sums_test")
    assert (done.returncode, "sent with encoding 'gzip'" in done.stderr) == (1, True)


def test_nobody_is_there(tmp_path: Path, table: Path, server: FileServer) -> None:
    done = run(tmp_path / "data", "--sources", table, "--mirror", "http://127.0.0.1:9", "--only", "sums_test")
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr.splitlines()[0]
    assert "(4 tries)" in done.stderr.splitlines()[0]


def test_killed_in_the_middle_and_started_again(tmp_path: Path, table: Path, server: FileServer) -> None:
    output = tmp_path / "data"
    server.behave = lambda got, before: Sent(pause=0.05 if before == 0 else 0.0)
    process = started(output, "--sources", table, "--mirror", server.url, "--only", "sums_train")
    end = time.monotonic() + 60
    while sum(path.stat().st_size for path in output.glob(".downloads/*.part")) < 20_000:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in output.iterdir()] == [".downloads"]

    have = next(output.glob(".downloads/*.part")).stat().st_size
    done = small(output, table, server, "--only", "sums_train")
    assert done.returncode == 0, done.stderr
    assert server.asked("sums_train.jsonl") == [None, f"bytes={have}-"]
    assert holds(output, "sums_train")
    assert [path.name for path in output.iterdir()] == ["sums_train.jsonl.gz"]


def test_a_download_that_was_whole_when_it_was_killed(
    tmp_path: Path, table: Path, server: FileServer
) -> None:
    """A part as long as the file: the server has nothing behind it, and the file is fetched anew."""
    output = tmp_path / "data"
    server.behave = lambda got, before: Sent(cut=30) if before == 0 else Sent(503)
    small(output, table, server, "--only", "sums_test")
    (part,) = output.glob(".downloads/*.part")
    part.write_bytes(server.files[f"/own/sums/{COMMIT}/sums_test.jsonl"])
    server.behave = lambda got, before: Sent()
    assert small(output, table, server, "--only", "sums_test").returncode == 0
    assert server.asked("sums_test.jsonl")[-1] is None
    assert holds(output, "sums_test")


def test_what_is_there_and_wrong_is_kept_beside_the_right_one(
    tmp_path: Path, table: Path, server: FileServer
) -> None:
    output = tmp_path / "data"
    output.mkdir()
    for name, content in (
        ("sums_test", gzip.compress(b'{"question": "mine"}\n')),
        ("proofs_test", b"\x1f\x8bcut"),
    ):
        (output / f"{name}.jsonl.gz").write_bytes(content)
    listed = small(output, table, server, "--list")
    assert [line.split()[-1] for line in listed.stdout.splitlines()[2:]] == ["rows", "rows"]
    done = small(output, table, server, "--only", "sums_test", "proofs")
    assert done.returncode == 0
    assert holds(output, "sums_test")
    assert holds(output, "proofs_test")
    assert read_rows(output / "sums_test.jsonl.gz.before".replace(".gz.before", ".gz")) == ROWS["sums_test"]
    assert gzip.decompress((output / "sums_test.jsonl.gz.before").read_bytes()) == b'{"question": "mine"}\n'
    assert "the old file is kept as sums_test.jsonl.gz.before" in done.stderr
    server.behave = lambda got, before: Sent(404)
    (output / "sums_test.jsonl.gz").write_bytes(b"")
    assert small(output, table, server, "--only", "sums_test").returncode == 1
    assert (output / "sums_test.jsonl.gz").exists(), "what cannot be replaced stays"


def test_mirrors_of_one_host_and_from_the_environment(
    tmp_path: Path, table: Path, server: FileServer
) -> None:
    one = ("--sources", table, "--only", "sums_test")
    assert run(tmp_path / "a", *one, "--mirror", f"one.invalid={server.url}/").returncode == 0
    assert (
        run(
            tmp_path / "b", *one, SCALEQUEST_MIRROR=f"two.invalid=http://x one.invalid={server.url}"
        ).returncode
        == 0
    )
    assert (
        run(tmp_path / "c", *one, "--retries", "0", "--mirror", f"two.invalid={server.url}").returncode == 1
    )
    ours = OURS
    hub = next(source for item in ours.sets for source in item.sources if source.host == "hub")
    assert ours.url(hub, ["huggingface.co=https://m.example/x"]).startswith("https://m.example/x/datasets/")


def test_a_local_copy_needs_no_network(tmp_path: Path, table: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "own/sums").mkdir(parents=True)
    (copy / "own/sums/sums_train.jsonl").write_bytes(lines(ROWS["sums_train"], ascii_only=True))
    (copy / "sums_test.jsonl.gz").write_bytes(gzip.compress(lines(ROWS["sums_test"], ascii_only=True)))
    done = run(tmp_path / "data", "--sources", table, "--from", copy)
    assert done.returncode == 1
    assert holds(tmp_path / "data", "sums_train")
    assert holds(tmp_path / "data", "sums_test")
    assert "proofs_test.jsonl: No such file or directory" in done.stderr


def test_two_at_once(tmp_path: Path, table: Path, server: FileServer) -> None:
    output = tmp_path / "data"
    server.behave = lambda got, before: Sent(hang=2.0)
    first = started(output, "--sources", table, "--mirror", server.url, "--only", "sums_test")
    end = time.monotonic() + 60
    while not server.got:
        assert time.monotonic() < end
        time.sleep(0.01)
    second = small(output, table, server, "--only", "sums_test")
    assert second.returncode == 2
    assert (
        second.stderr
        == f"error: {output}: another prepare_data.py is writing to this folder; wait until it has finished\n"
    )
    assert first.wait() == 0


# ----------------------------------------------------------------------------------------- on request only

TEXTS = [
    "",
    "a  b ",
    "\n\nx + ½ = 3",
    "小明有5个苹果 🙂",
    "\t",
    "x" * 40,
    "    four   spaces\n" + " " * 77 + "x",
]


def trained(folder: Path, **how: Any) -> Path:
    """A small byte-pair model of SentencePiece, with pieces that are not used, as InternLM2's has."""
    import sentencepiece

    text = folder / "text.txt"
    text.write_text(
        "\n".join(f"Tom has {n} apples and buys {n % 7} more; how many are there?" for n in range(400))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=360, model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_1]"], minloglevel=2, **how,
    )  # fmt: skip
    return folder / "tokenizer.model"


@pytest.mark.data
def test_the_fast_tokenizer_is_sentencepiece_on_a_real_vocabulary(data_dir: Path) -> None:
    import sentencepiece

    path = package_file("mistral_common", "data/tokenizer.model.v1")
    fast = fast_tokenizer(path.read_bytes(), {})
    slow = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = [row["response"] for row in read_rows(data_dir / "scalequest_samples.jsonl.gz")]
    texts += [row["question"] for row in read_rows(data_dir / "gaokao2023en_test.jsonl.gz")]
    for text in [*texts, *TEXTS]:
        ids = fast.encode(text).ids
        assert ids == [slow.bos_id(), *slow.encode(text)], text
        assert fast.decode(ids) == slow.decode(slow.encode(text)), text


@pytest.mark.parametrize(
    "how",
    [
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False},
        {"normalization_rule_name": "nmt_nfkc"},
    ],
)
def test_the_files_normaliser_is_followed(how: dict[str, Any], tmp_path: Path) -> None:
    import sentencepiece

    path = trained(tmp_path, **how)
    fast = fast_tokenizer(path.read_bytes(), {"add_bos_token": False})
    slow = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in [*TEXTS, "Tom has 17 apples; how many?", "ﬁne ½ Å"]:
        assert fast.encode(text).ids == slow.encode(text), text


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    path = trained(folder, normalization_rule_name="identity", remove_extra_whitespaces=False)
    settings = {
        "auto_map": {"AutoTokenizer": ["code.Slow", None]}, "tokenizer_class": "InternLM2Tokenizer",
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
        "added_tokens_decoder": {
            str(number): {"content": content, "special": True}
            for number, content in enumerate(("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"))
        },
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert path.exists()
    return folder


def test_internlm2s_tokenizer_is_made_and_fits_the_reward_models_format(tmp_path: Path) -> None:
    import sentencepiece

    model, made = model_folder(tmp_path / "model"), tmp_path / "models/tokenizer"
    words = ("--only", "internlm2_tokenizer", "--model_dir", model, "--tokenizer_dir", made)
    done = run(tmp_path / "data", *words)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "data").exists(), "no data were asked for"
    assert sorted(path.name for path in made.parent.iterdir()) == ["tokenizer"]
    chat = bind(load_format("internlm2_reward"), load_tokenizer(str(made)))
    slow = sentencepiece.SentencePieceProcessor(model_file=str(model / "tokenizer.model"))
    start, end = 3, 4
    assert chat.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [start, end]
    ids = reward_ids("Tom has 5 apples?", "No, 6.", chat, "\n", 5)
    asked, answered = slow.encode("user\nTom has 5 apples?"), slow.encode("assistant\nNo, 6.")
    line = slow.encode("\n")
    assert ids == [slow.bos_id(), start, *asked, end, *line, start, *answered, end, *line, 5]
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert "exists already" in run(tmp_path / "data", *words).stdout
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before


def test_internlm2s_files_come_from_the_hub_without_a_folder(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    at = "/internlm/internlm2-7b-reward/resolve/main"
    names = ("tokenizer.model", "tokenizer_config.json")
    with FileServer({f"{at}/{name}": (model / name).read_bytes() for name in names}).running() as server:
        made = tmp_path / "made"
        words = ("--only", "internlm2_tokenizer", "--tokenizer_dir", made, "--mirror", server.url)
        assert run(tmp_path / "data", *words).returncode == 0
    assert (made / "tokenizer.json").exists()


def test_a_tokenizer_of_another_kind_is_one_line(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    words = ("--only", "internlm2_tokenizer", "--model_dir", model, "--tokenizer_dir", tmp_path / "made")
    (model / "tokenizer.model").write_bytes(b"no model")
    said = run(tmp_path / "data", *words)
    assert said.returncode == 1
    assert said.stderr.startswith("warning: internlm2_tokenizer: tokenizer.model: not ")
    (model / "tokenizer.model").unlink()
    assert (
        "set --model_dir to a folder that contains tokenizer.model and"
        in run(tmp_path / "data", *words).stderr
    )
    assert not (tmp_path / "made").exists()


REWRITING = '''
solvability_optimization_prompt = """
Make it harder {{so}}.
Step 4 #Finally Rewritten Problem#:
{problem}
""".strip()

difficulty_optimization_prompt = """
Make it solvable: {problem}
FINAL QUESTION: <it>
""".strip()

raise SystemExit("this file is read, not run")
'''
JUDGING = 'import nothing_that_is_there\ninstruction = """\nYes or No?\n{problem}\n""".strip()\n'


def test_the_authors_prompts_become_prompt_files(tmp_path: Path) -> None:
    (extra,) = (one for one in OURS.extras if one.name == "authors_prompts")
    files = dict(zip(map(path_of, extra.sources), (REWRITING.encode(), JUDGING.encode()), strict=True))
    with FileServer(files).running() as server:
        done = run(tmp_path / "data", "--only", "authors_prompts", "--mirror", server.url)
    assert done.returncode == 0, done.stderr
    assert "Apache-2.0" in done.stdout
    folder = tmp_path / "data/authors_prompts"
    assert (
        "yyDing1/ScaleQuest@2c90e5dc1216"
        in (folder / "solvability_judge.yaml").read_text().partition("\n")[0]
    )
    solvable, harder = (
        load_prompt(folder / "solvability_rewrite.yaml"),
        load_prompt(folder / "difficulty_rewrite.yaml"),
    )
    assert solvable.fill("1?") == "Make it solvable: 1?\nFINAL QUESTION: <it>"
    assert harder.fill("1?") == "Make it harder {so}.\nStep 4 #Finally Rewritten Problem#:\n1?"
    assert load_prompt(folder / "solvability_judge.yaml").fill("1?") == "Yes or No?\n1?"
    for ours, theirs in (("solvability_rewrite", solvable), ("difficulty_rewrite", harder)):
        assert theirs.markers == load_prompt(ROOT / f"recipes/prompts/{ours}.yaml").markers


def test_authors_code_that_changed_is_said() -> None:
    with pytest.raises(ConfigError, match="has no prompt 'difficulty_optimization_prompt'"):
        authors_prompts(REWRITING.replace("FINAL QUESTION", "END"), JUDGING)
    with pytest.raises(ConfigError, match="has no prompt 'instruction'"):
        authors_prompts(REWRITING, "instruction = 3")
    with pytest.raises(ConfigError, match="cannot be parsed"):
        authors_prompts("def", JUDGING)
