"""What makes two numbers comparable: the questions, the model, the engine and the grader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scalequest import receipts
from scalequest.chat import ChatFormat, load_format
from scalequest.config import ConfigError, fingerprint_fields
from scalequest.evaluation.benchmarks import LoadedBenchmark
from scalequest.evaluation.prompts import load_eval_prompt
from scalequest.evaluation.results import sha256_of
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.grading.options import GRADER_VERSION
from scalequest.models import adapter_base
from scalequest.precision import engine_dtype
from scalequest.records import expand, model_fingerprint
from scalequest.redaction import redacted


def apply_prompts(benchmarks: Sequence[LoadedBenchmark], config: EvaluationConfig) -> list[LoadedBenchmark]:
    """Give the benchmarks the prompts of the settings, if there are any.

    Raises:
        ConfigError: a prompt file is wrong or made for other benchmarks, or two prompts have the same name.
    """
    given = tuple(load_eval_prompt(path) for path in config.prompts)
    chosen = [replace(benchmark, prompts=given) if given else benchmark for benchmark in benchmarks]
    for benchmark in chosen:
        if len({prompt.name for prompt in benchmark.prompts}) < len(benchmark.prompts):
            raise ConfigError(f"{benchmark.name}: two prompts have the same name")
        columns = {column for problem in benchmark.problems for column in problem.row}
        for prompt in benchmark.prompts:
            if missing := {case.column for case in prompt.cases.values()} - columns:
                raise ConfigError(
                    f"prompts: '{prompt.name}' needs column '{min(missing)}', which {benchmark.name} "
                    "does not have: use it only with the benchmarks that it was written for"
                )
    return chosen


def identity_of(
    config: EvaluationConfig, labels: Sequence[str], benchmarks: Sequence[LoadedBenchmark]
) -> dict[str, Any]:
    """Return what can change a row besides the settings and the models, for the stage's fingerprint."""
    return {
        "labels": list(labels),
        "engine_name": engine_name_of(config),
        **({"dtypes": open_dtypes} if (open_dtypes := _open_dtypes_of(config, labels)) else {}),
        "grader": version_of_grader(),
        **({"grading_functions": functions} if (functions := config.grading.identity) else {}),
        "chat_format_sha256": {label: sha256_of_format(config, label) for label in labels},
        "benchmarks": {
            b.name: {
                "sha256": b.sha256,
                "problems": len(b.problems),
                "prompts": {prompt.name: prompt.sha256 for prompt in b.prompts},
                "patched": b.patched,
            }
            for b in benchmarks
        },
    }


def fingerprints_of_models(config: EvaluationConfig, labels: Sequence[str]) -> dict[str, str]:
    """Return every model's path with its fingerprint; a LoRA adapter is followed by its base model.

    A server may later serve another model under the same name; this cannot be detected here.
    """
    found: dict[str, str] = {}
    for label in labels:
        if config.server.url is not None:
            found[config.models[label]] = f"server:{config.models[label]}"
            continue
        path, revision = config.models[label], config.revisions.get(label)
        found[path] = model_fingerprint(path, revision)
        if (base := adapter_base(path)) is not None:
            found[base] = model_fingerprint(base)
    return found


def tokenizer_of(model: str) -> str:
    """Return the folder of a model's tokenizer: a LoRA adapter's own if it has one, else its base model's."""
    base = adapter_base(model)
    if base is None or (expand(model) / "tokenizer.json").exists():
        return model
    return base


def engine_name_of(config: EvaluationConfig) -> str:
    """Return the name of the engine; `auto` is resolved without importing an engine."""
    if config.server.url is not None:
        return "server"
    if config.engine.name != "auto":
        return config.engine.name
    return "vllm" if find_spec("vllm") else "transformers"


def version_of_grader() -> str:
    """Return the version of the grader, and of math-verify, which it builds on."""
    from importlib.metadata import version

    return f"scalequest-{GRADER_VERSION}, math-verify {version('math-verify')}"


def sha256_of_format(config: EvaluationConfig, label: str) -> str | None:
    """Hash a chat format's content, independently of its path; None for a server's own format."""
    if config.server.url is not None:
        return None
    return sha256_of(json.dumps(asdict(format_of(config, label)), sort_keys=True, default=str))


def format_of(config: EvaluationConfig, label: str) -> ChatFormat:
    """The chat format in which a model is asked."""
    tokenizer = tokenizer_of(config.models[label])
    return load_format(config.format_of(label), tokenizer, config.revisions.get(label))


def protocol_of(
    receipt: Mapping[str, Any], config: EvaluationConfig, label: str, benchmark: LoadedBenchmark
) -> dict[str, Any]:
    """Return what two numbers must share to be comparable; prompt ids follow from format and tokenizer."""
    fields = receipt["fingerprint_fields"]
    name = fields["engine_name"]
    versions = receipt.get("versions", {})
    request = redacted(config.server.extra, environment=False)
    return {
        **grading_settings_of(config, benchmark),
        **request_settings_of(config, benchmark),
        "chat_format": "the server's" if name == "server" else format_of(config, label).name,
        "chat_format_sha256": fields["chat_format_sha256"][label],
        "sampling": fields["sampling"],
        "seed": fields["seed"] if config.sampling.temperature > 0 else None,
        "engine": name,
        "engine_version": versions.get(name) or versions.get(f"{name}-cpu"),
        "dtype": fields.get("dtypes", {}).get(label) or _dtype_of(config, label),
        **({"request": request} if name == "server" and request else {}),
        "commit": f"{receipt.get('commit') or 'unknown'}{' with changes' if receipt.get('dirty') else ''}",
    }


def request_settings_of(config: EvaluationConfig, benchmark: LoadedBenchmark) -> dict[str, Any]:
    """Return the part of the protocol that describes what was asked."""
    return {
        "benchmark": benchmark.name,
        "benchmark_sha256": benchmark.sha256,
        "limit": benchmark.limit,
        "prompts": {prompt.name: prompt.sha256 for prompt in benchmark.prompts},
        "shots": max(len(prompt.shots) for prompt in benchmark.prompts),
        "samples": config.samples,
    }


def grading_settings_of(config: EvaluationConfig, benchmark: LoadedBenchmark) -> dict[str, Any]:
    """Return the part of the protocol that can change if the same outputs are graded again."""
    return {
        "grader": version_of_grader(),
        "grading": {**fingerprint_fields(config.grading), **config.grading.identity},
        "truncated": config.truncated,
        "patched": benchmark.patched,
    }


def _open_dtypes_of(config: EvaluationConfig, labels: Sequence[str]) -> dict[str, str]:
    """Return the precision of every model, if the settings leave it to the checkpoint or the hardware."""
    decided = config.server.url is not None or config.engine.dtype not in ("auto", "native")
    return {} if decided else {label: _dtype_of(config, label) for label in labels}


def _dtype_of(config: EvaluationConfig, label: str) -> str:
    """Return the precision in which the model runs on this machine."""
    if config.server.url is not None:
        return "the server's"
    try:
        return engine_dtype(
            config.engine.dtype,
            config.models[label],
            revision=config.revisions.get(label),
            trust_remote_code=config.engine.trust_remote_code,
        )
    except (OSError, ValueError):
        return "the checkpoint's"


def read_receipt(folder: str | Path) -> dict[str, Any]:
    """Return the receipt of a stage's folder, finished or not.

    Raises:
        ConfigError: there is no receipt, or it cannot be read.
    """
    receipt = receipts.read_receipt(folder)
    if receipt is None:
        raise ConfigError(f"{folder}: contains no receipt.json, so it is not a stage folder")
    return receipt
