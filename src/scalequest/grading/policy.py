"""Functions of the user's in place of our rules: what is right, and what is taken for the answer.

    def right(response, reference):
        return reference.lower() in response.lower()

They run in the worker processes, within the limits on time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalequest.functions import NamedFunction, shown
from scalequest.grading.options import GraderOptions


def load_policy(options: GraderOptions) -> dict[str, NamedFunction]:
    """Return the functions that the options name, by their key.

    Raises:
        ConfigError: one of them cannot be loaded.
    """
    return {key.key: key.load() for key in options.functions}


def apply(policy: Mapping[str, NamedFunction], key: str, where: str, *arguments: str) -> bool | str | None:
    """Call one of the functions.

    Args:
        policy: of `load_policy`.
        key: `function` (response, reference) or `extraction` (response).
        where: names the output in error messages.
        arguments: of the function.

    Raises:
        ConfigError: the function raises, or does not return a truth value or an answer.
    """
    function = policy[key]
    said: Any = function(where, *arguments)
    if key == "extraction":
        if said is not None and not isinstance(said, str):
            what = f"returned {shown(said)}; return the answer as a string, or None if there is none"
            raise function.fault(where, what)
        return (said and said.strip()) or None
    said = said.tolist() if hasattr(said, "tolist") else said  # of numpy
    if not isinstance(said, bool):
        raise function.fault(
            where, f"returned {shown(said)}; return True if the response is right, else False"
        )
    return said
