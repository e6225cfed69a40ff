"""The run page: what a run, an evaluation or several runs left in their folders, as one HTML file."""
