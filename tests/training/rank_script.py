"""Runs a script as a rank of DeepSpeed on the CPU without first compiling an operator.

DeepSpeed compiles its shared-memory all-reduce for CPUs, which only its inference uses, whenever it starts
on a machine without the compiled one; that takes two CPU minutes.

    accelerate launch ... rank_script.py SCRIPT ...
"""

from __future__ import annotations

import runpy
import sys
from collections import defaultdict
from pathlib import Path

from deepspeed import ops

ops.__compatible_ops__ = defaultdict(bool)
del sys.argv[0]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
