"""ScaleQuest: turn problem solvers into question generators, and train models on their questions."""

import os

__version__ = "0.1.0"

# TRL and the hub's client report every run by default; set the variable to 0 if you want that.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
