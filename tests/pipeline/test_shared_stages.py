"""Stages that are the same run once, whatever the files call them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.pipeline.runner import load, plan
from scalequest.pipeline.shared_stages import Shared, by_content, union, without


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A pipeline of three stages, the last of which has a variable of its own."""
    (tmp_path / "stage.py").write_text("")
    (tmp_path / "settings.yaml").write_text("limit: 3\n")
    stage = f"script: {tmp_path}/stage.py, config: {tmp_path}/settings.yaml"
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "name: one\nvars: {size: '1', end: '2'}\nstages:\n"
        f"- {{name: start, {stage}, args: {{size: '${{size}}'}}}}\n"
        f"- {{name: middle, {stage}, args: {{input: ['${{output}}/start']}}}}\n"
        f"- {{name: last, {stage}, needs: [start], "
        "args: {models: {a: '${output}/middle'}, end: '${end}'}}\n"
    )
    return path


def shared(file: Path, **given: str) -> Shared:
    return by_content(load(file, given), "here")


def test_what_differs_late_is_shared_early(file: Path) -> None:
    one, other = shared(file), shared(file, end="3")
    assert [one.names[name] == other.names[name] for name in ("start", "middle", "last")] == [
        True,
        True,
        False,
    ]
    assert one.names["start"].startswith("stage-")
    both = union("both", [one.spec, other.spec])
    assert len(both.stages) == 4
    steps = {step.spec.name: step for step in plan(both, Path("out"))}
    last = steps[other.names["last"]]
    assert last.needs == (one.names["start"], one.names["middle"])
    assert last.settings["models"] == {"a": f"out/{one.names['middle']}"}
    assert last.settings["output_dir"] == f"out/{other.names['last']}"


def test_what_differs_early_is_shared_nowhere(file: Path) -> None:
    one, other = shared(file), shared(file, size="2")
    assert not set(one.names.values()) & set(other.names.values())


def test_a_stage_is_known_by_its_settings_and_not_by_its_name(file: Path) -> None:
    before = shared(file)
    file.write_text(file.read_text().replace("name: middle", "name: centre").replace("}/middle", "}/centre"))
    assert shared(file).names["centre"] == before.names["middle"]
    assert shared(file).names["last"] == before.names["last"]


def test_a_stage_with_a_folder_of_its_own_is_refused(file: Path) -> None:
    file.write_text(file.read_text().replace("args: {size", "args: {output_dir: here, size"))
    with pytest.raises(ConfigError, match="stage 'start': output_dir"):
        shared(file)


def test_what_needs_a_failed_stage_is_left_out(file: Path) -> None:
    one, other = shared(file), shared(file, end="3")
    steps = plan(union("both", [one.spec, other.spec]), Path("out"))
    left = [step.spec.name for step in without(steps, [one.names["last"]])]
    assert left == [other.names[name] for name in ("start", "middle", "last")]
    assert [step.spec.name for step in without(steps, [one.names["middle"]])] == [one.names["start"]]
