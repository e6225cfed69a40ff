"""ScaleQuest: question generators from problem solvers, and the data and models that come of them."""

import os

__version__ = "0.1.0"

# TRL and the hub's client otherwise report every run; whoever wants that sets it to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
