"""What a recipe is, in one value, and how its script runs.

Each script of `recipes/` and `eval/` that reads settings ends in

    RECIPE = Recipe("sft", version=1, kind="training", configs=types, main=main)

    if __name__ == "__main__":
        sys.exit(run_recipe(RECIPE, __doc__))

Whoever has to know something about a stage without running it (the look ahead, the Slurm launcher, tables,
benches, tests) asks `load_recipe` for this value.
"""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalequest.config import ConfigError, RunOptions, parse
from scalequest.stage.folder import Asked, asking
from scalequest.stage.launch import on_ray, worker
from scalequest.stage.script import run_script

# data: workers share the blocks of a folder; training: the processes train one model together;
# evaluation: one process per model; tool: reads settings, and leaves no stage folder.
Kind = Literal["data", "training", "evaluation", "tool"]


@dataclass(frozen=True)
class Recipe:
    """A stage or a tool.

    Attributes:
        name: as receipts and logs have it.
        version: raised by hand when the same settings give other rows or weights; part of the fingerprint.
        kind: how its processes work together.
        configs: gives the dataclasses whose fields are its settings; called late, since some need torch.
        main: its work. It takes one value of each of `configs`; that of a data stage also takes
            this worker's number and the number of workers.
        words: what turns the words of the command line into settings, if they are not settings already.
    """

    name: str
    version: int
    kind: Kind
    configs: Callable[[], tuple[type, ...]]
    main: Callable[..., None]
    words: Callable[[Sequence[str]], Sequence[str]] = list

    def __call__(self, *values: Any) -> None:
        """Do the work of this process with these settings; a data stage may start workers on Ray instead."""
        if self.kind == "data":
            _as_worker(self, *values)
        else:
            self.main(*values)

    def fingerprint(self, *values: Any) -> str | None:
        """The fingerprint that a stage would have now with these settings; None if it opens no folder.

        Nothing is written: a tool, and a training stage that is only to tokenise, open none and are not run.
        What keeps the stage from opening its folder is raised as its `main` raises it.
        """
        if self.kind == "tool" or (self.kind == "training" and values[0].prepare_only):
            return None
        place = ((0, 1),) if self.kind == "data" else ()
        try:
            with asking():
                self.main(*values, *place)
        except Asked as asked:
            return asked.fingerprint
        return None

    def parse(self, words: Sequence[str], description: str = "") -> Any:
        """Read a command line: one value of each of `configs`."""
        return parse(*self.configs(), argv=list(self.words(words)), description=description)


def _as_worker(recipe: Recipe, run: RunOptions, config: Any) -> None:
    """Take this process's place before anything is imported that looks at devices."""
    if on_ray(getattr(config, "launch", "local")):
        from scalequest.stage.ray_launch import spread

        spread(recipe, run, config)
        return
    group = config.engine.tensor_parallel_size if hasattr(config, "engine") else 1
    recipe.main(run, config, worker(group))


def run_recipe(recipe: Recipe, description: str | None) -> int:
    """Run a recipe's script with the command line of this process; returns the exit status."""
    return run_with(recipe, *recipe.parse(sys.argv[1:], description or ""))


def run_with(recipe: Recipe, *values: Any) -> int:
    """Run a recipe with these settings: exit status 2 for a mistake of the user's, 75 for a stop."""
    if recipe.kind == "training":  # a scheduler may stop it before there is anything to save
        from scalequest.training.safety import leave_when_told

        leave_when_told(Path(values[1].output_dir))
    return run_script(recipe, *values)


def load_recipe(script: str | Path) -> Recipe | None:
    """The recipe of a script, which is imported and not run; None if it defines none.

    Raises:
        ConfigError: there is no such file.
    """
    if not Path(script).is_file():
        raise ConfigError(f"{script}: no such file")
    lines = ast.parse(Path(script).read_text(encoding="utf-8")).body
    names = {
        name.id
        for line in lines
        if isinstance(line, ast.Assign)
        for name in line.targets
        if isinstance(name, ast.Name)
    }
    if "RECIPE" not in names:  # importing a script of another kind could run it
        return None
    found = runpy.run_path(str(script), run_name="recipe")["RECIPE"]
    return found if isinstance(found, Recipe) else None
