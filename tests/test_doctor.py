"""`scalequest doctor`: what it finds on machines of other kinds, made of environments and stand-in tools."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from scalequest import doctor, hardware

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose driver reports one H100."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in *compute_cap*) echo 9.0;; *) echo "NVIDIA H100 80GB HBM3, 81559";; esac\n'
    )
    tool.chmod(0o755)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(hardware, "GPU_FILES", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(hardware, "_cpu_build", lambda: False)
    for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return tool


def test_json_names_everything_and_says_how_to_fix_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scalequest", "doctor", "--json"],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "SCALEQUEST_DATA": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)}
    wanted = {"Python", "GPU", "native bfloat16", "vLLM", "flash-attention", "hub", "W&B", "disk", "memory"}
    assert wanted | {"SCALEQUEST_DATA", "packages", "recipes and presets"} <= found.keys()
    assert found["Python"]["found"].startswith(sys.version.split()[0])
    assert all(one["costs"] and one["fix"] for one in found.values() if one["state"] == "lack")
    assert "prepare-data" in found["SCALEQUEST_DATA"]["fix"]
    assert "HF_HUB_OFFLINE" in found["hub"]["found"]


def test_a_log_gets_a_line_for_each_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [
        doctor.Finding("vLLM", "lack", "not installed", "slow", "pip install x"),
        doctor.Finding("Python", "ok", "3.11"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "lack  vLLM: not installed; costs: slow; fix: pip install x",
        "ok    Python: 3.11",
    ]
    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Finding("Python", "fatal", "3.8")]))
    assert doctor.main([]) == 1


def test_without_any_other_package_it_says_what_to_install() -> None:
    """-S hides all installed packages, and with them torch and every requirement."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "from scalequest.cli import main\nsys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0 or "fatal" in done.stdout, done.stderr
    assert done.stderr == ""
    assert "fix: pip install" in done.stdout
    assert "native bfloat16: not known, because" in done.stdout


def test_gpus_are_named_and_hidden_ones_reported(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor._gpus()
    assert (found.state, found.found) == ("ok", "NVIDIA H100 80GB HBM3 (80 GiB)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor._gpus().fix == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(hardware, "_cpu_build", lambda: True)
    found = doctor._gpus()
    assert (found.state, found.fix) == ("lack", "pip install --force-reinstall torch")
    assert f"torch {version('torch')} is a build for CPUs" in found.found


def test_flash_attention_matters_on_gpus_that_have_it(gpu: Path) -> None:
    assert "flash-attn" in doctor._flash_attention().found
    gpu.write_text("#!/bin/sh\necho 7.5\n")
    assert "7.5, below 8.0" in doctor._flash_attention().found


def test_a_package_outside_its_bounds_is_named() -> None:
    from packaging.requirements import Requirement

    installed = version("rich")
    wanted = [Requirement("rich<2"), Requirement("packaging>=20")]
    found = doctor._extra("", wanted, "")
    assert (found.state, found.fix) == ("lack", "pip install 'rich<2'")
    assert f"rich {installed} is not <2" in found.found
    missing = doctor._extra("train", [Requirement("no-such-package-here>=1")], "costs")
    assert missing.fix == "pip install 'scalequest[train]'"
    assert doctor._extra("", [Requirement("packaging>=20")], "").state == "ok"


def test_vllm_built_for_another_torch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from packaging.specifiers import SpecifierSet

    monkeypatch.setattr(doctor, "_version", {"vllm": "0.32.0", "torch": "2.13.0+cpu"}.get)
    monkeypatch.setattr(doctor, "_pinned_torch", lambda _: SpecifierSet("==2.14.0"))
    assert doctor._vllm().fix == "pip install 'torch==2.14.0'"
    monkeypatch.setattr(doctor, "_pinned_torch", lambda _: SpecifierSet("==2.13.0"))
    assert doctor._vllm().state == "ok"


# ------------------------------------------------------------------------------------------------------- hub


class _Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Answer]]:
    handler = type("Handler", (_Answer,), {})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{made.server_port}")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", "/nonexistent")
        yield handler
        made.shutdown()


def test_a_hub_that_answers(server: type[_Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._hub().state == "ok"
    assert "without a token" in doctor._hub().found
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in doctor._hub().found
    assert "with a token" in doctor._hub().found
    server.status = 401  # an endpoint that wants a login is there, too
    assert doctor._hub().state == "ok"
    server.status = 503
    assert "HTTP 503" in doctor._hub().found


def test_a_hub_that_does_not_answer_costs_seconds_at_most(
    server: type[_Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert doctor._reach(address, 0.2) is not None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "_reach", lambda *_: pytest.fail("asked although offline"))
    assert doctor._hub().state == "note"


def test_data_that_is_missing_in_part_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEQUEST_DATA", str(tmp_path))
    found = doctor._data()
    assert (found.state, found.fix) == ("lack", f"scalequest prepare-data --output_dir {tmp_path}")
    assert "15 of 15 files" in found.found
