"""Copy recipes, presets, benchmarks and tiny models into the wheel; everything else is in setup.cfg.

They lie at the top of the repository, where people read and launch them, and `scalequest.installed` finds
them in either place. An editable installation uses the checkout's own files.
"""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, "src")

from scalequest.installed import FOLDERS


class BuildWithFiles(build_py):
    """`build_py`, followed by a copy of the folders to scalequest/files/."""

    def run(self) -> None:
        """Build the packages, and copy unless the installation is editable."""
        super().run()
        if self.editable_mode:
            return
        for folder in FOLDERS:
            target = Path(self.build_lib, "scalequest", "files", folder)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithFiles})
