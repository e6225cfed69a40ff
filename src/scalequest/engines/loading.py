"""Load a model on the engine named in a config; the only module that knows all engines."""

from __future__ import annotations

import logging
from pathlib import Path

from scalequest import heartbeat
from scalequest.config import ConfigError
from scalequest.engines.base import EngineConfig, Generator
from scalequest.engines.scoring import Head, Scorer
from scalequest.models import adapter_base, check_safetensors, loading
from scalequest.precision import say_engine

logger = logging.getLogger(__name__)


def open_generator(
    model: str, config: EngineConfig, *, revision: str | None = None, seed: int = 0
) -> Generator:
    """Load `model` on the engine named in `config`.

    Args:
        model: a folder or hub id, or the folder of a LoRA adapter, whose base model is then loaded with it.
        config: the engine and its settings.
        revision: the model's revision on the hub.
        seed: the seed for requests without their own seed.

    Raises:
        ConfigError: the engine cannot be imported, or an engine argument is unknown.
    """
    with heartbeat.doing(f"loading {model} and its engine"):
        _check_weights(model)
        say_engine(config.dtype, model, revision=revision, trust_remote_code=config.trust_remote_code)
        if config.name != "transformers":
            from scalequest.engines.vllm_engine import VllmGenerator, import_vllm

            try:
                import_vllm()
            except Exception as error:  # a broken installation fails in many ways
                why = " ".join(f"{type(error).__name__}: {error}".split())
                if config.name == "vllm":
                    raise ConfigError(f"engine.name: vllm cannot be imported: {why}") from error
                logger.warning("engine: using transformers, because vllm cannot be imported: %s", why)
            else:
                with loading(model):
                    return VllmGenerator(model, config, revision=revision, seed=seed)
        elif config.extra:
            raise ConfigError(
                f"engine.extra: only vllm accepts further arguments, got {', '.join(config.extra)}"
            )
        from scalequest.engines.transformers_engine import TransformersGenerator

        with loading(model):
            return TransformersGenerator(model, config, revision=revision, seed=seed)


def _check_weights(model: str) -> None:
    for one in (model, adapter_base(model)):
        if one is not None and Path(one).expanduser().is_dir():
            check_safetensors(Path(one).expanduser())


def open_scorer(
    model: str, config: EngineConfig, *, revision: str | None = None, head: Head | None = None
) -> Scorer:
    """Load `model` (a folder or hub id) with its head; `auto` is vLLM if possible, else transformers.

    vLLM supports sequence classifiers and per-token reward models such as `InternLM2ForRewardModel` (the
    value at the last token counts, unless `head` asks for steps); transformers supports sequence
    classifiers, and token classifiers for steps.

    Raises:
        ConfigError: the engine cannot be imported or does not support the architecture, or the head has more
            than two outputs.
    """
    with heartbeat.doing(f"loading {model} and its engine"):
        _check_weights(model)
        say_engine(config.dtype, model, revision=revision, trust_remote_code=config.trust_remote_code)
        if config.name != "transformers":
            from scalequest.engines.vllm_engine import import_vllm

            why = ""
            try:
                import_vllm()
                from scalequest.engines.vllm_scorer import VllmScorer, unsupported

                why = unsupported(model, config, revision, head)
            except ConfigError:
                raise
            except Exception as error:  # a broken installation fails in many ways
                why = f"vllm cannot be imported: {type(error).__name__}: {error}"
            if not why:
                with loading(model):
                    return VllmScorer(model, config, revision=revision, head=head)
            if config.name == "vllm":
                raise ConfigError(f"engine.name: {why}")
            logger.warning("scorer: using transformers, because %s", " ".join(why.split()))
        from scalequest.engines.transformers_scorer import TransformersScorer

        with loading(model):
            return TransformersScorer(model, config, revision=revision, head=head)
