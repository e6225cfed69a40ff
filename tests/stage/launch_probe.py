"""Started by the launchers in `test_launch.py`: says what the process was told and what it made of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from scalequest.config import ConfigError
from scalequest.stage.launch import check_world, worker

told: dict[str, object] = {}
try:
    check_world()
    told["alone"] = None
except ConfigError as error:
    told["alone"] = str(error)
if "RANK" in os.environ:
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    check_world()
    torch.distributed.destroy_process_group()
try:
    told["worker"] = worker()
except ConfigError as error:
    told["worker"] = str(error)
told["cores"] = sorted(os.sched_getaffinity(0))
told["environment"] = dict(os.environ)
Path(sys.argv[1], f"{os.getpid()}.json").write_text(json.dumps(told))
