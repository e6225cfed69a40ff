"""Engines turn token ids into completions; they never see text and do not know what it means."""

from scalequest.engines.base import Block, Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.loading import open_generator

__all__ = ["Block", "Completion", "EngineConfig", "Generator", "Request", "Sampling", "open_generator"]
