"""ScaleQuest: question generators from problem solvers, and the data and models that come of them."""

__version__ = "0.1.0"
