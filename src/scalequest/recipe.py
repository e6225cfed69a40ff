"""A recipe: one value that describes a script, and the code that runs it.

Each script in `recipes/` and `eval/` that reads settings ends in

    RECIPE = Recipe("sft", version=1, kind="training", configs=types, main=main)

    if __name__ == "__main__":
        sys.exit(run_recipe(RECIPE, __doc__))

Code that needs to know about a stage without running it (the pipeline's look-ahead, the Slurm launcher,
tables, benchmarks, tests) gets this value from `load_recipe`.
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
from scalequest.config.help import help_text
from scalequest.stage.folder import Asked, asking
from scalequest.stage.launch import on_ray, worker
from scalequest.stage.script import run_script

# data: workers share the blocks of a folder; training: the processes train one model together; evaluation:
# one process per model; tool: reads settings and leaves no stage folder.
Kind = Literal["data", "training", "evaluation", "tool"]

_MORE = (
    "The settings of TRL's trainer and model (learning_rate, num_train_epochs, output_dir, "
    "model_name_or_path, ...) are keys, too. `--help all` lists them with their defaults; it imports TRL, "
    "which takes 10 to 40 seconds."
)


@dataclass(frozen=True)
class Recipe:
    """A stage or a tool.

    Attributes:
        name: the name in receipts and logs.
        version: increased by hand when the same settings give other rows or weights; part of the fingerprint.
        kind: how the processes work together.
        configs: returns the dataclasses whose fields are the settings; called late, because some need torch.
        main: does the work. It takes one value of each of `configs`; for a data stage, also this worker's
            number and the number of workers.
        words: turns the words of the command line into settings, if they are not settings already.
        own: for a training stage, the first of `configs`, which can be imported without torch; `--help` lists
            its fields, and `--help all` those of TRL's classes, too.
    """

    name: str
    version: int
    kind: Kind
    configs: Callable[[], tuple[type, ...]]
    main: Callable[..., None]
    words: Callable[[Sequence[str]], Sequence[str]] = list
    own: type | None = None

    def __call__(self, *values: Any) -> None:
        """Do this process's share of the work; a data stage may start workers on Ray instead."""
        if self.kind == "data":
            _as_worker(self, *values)
        else:
            self.main(*values)

    def fingerprint(self, *values: Any) -> str | None:
        """Return the fingerprint that a stage would have with these settings; None if it opens no folder.

        Nothing is written. Tools, and training stages that only tokenise, open no folder and are not run. An
        error that would keep the stage from opening its folder is raised in the same way as by `main`.
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
        """Parse a command line into one value of each of `configs`."""
        if self.kind == "training" and {"-h", "--help"} & set(words) and "all" not in words:
            from scalequest.training.settings import TrainingData

            print(help_text((self.own or TrainingData,), description, more=_MORE))
            raise SystemExit(0)
        return parse(*self.configs(), argv=list(self.words(words)), description=description)


def _as_worker(recipe: Recipe, run: RunOptions, config: Any) -> None:
    """Set this process's rank and devices before anything is imported that looks at devices."""
    if on_ray(getattr(config, "launch", "local")):
        from scalequest.stage.ray_launch import spread

        spread(recipe, run, config)
        return
    group = config.engine.tensor_parallel_size if hasattr(config, "engine") else 1
    recipe.main(run, config, worker(group))


def run_recipe(recipe: Recipe, description: str | None) -> int:
    """Run a recipe's script with the command line of this process; return the exit status."""
    return run_with(recipe, *recipe.parse(sys.argv[1:], description or ""))


def run_with(recipe: Recipe, *values: Any) -> int:
    """Run a recipe with these settings; return 2 after a user's mistake and 75 after a requested stop."""
    if recipe.kind == "training":  # a scheduler may stop it before there is anything to save
        from scalequest.training.safety import leave_when_told

        leave_when_told(Path(values[1].output_dir))
    return run_script(recipe, *values)


def load_recipe(script: str | Path) -> Recipe | None:
    """Return the recipe of a script, which is imported but not run; None if it defines none.

    Raises:
        ConfigError: the file does not exist.
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
    if "RECIPE" not in names:  # importing a script without one could run it
        return None
    found = runpy.run_path(str(script), run_name="recipe")["RECIPE"]
    return found if isinstance(found, Recipe) else None
