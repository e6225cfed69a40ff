"""Train sets and benchmarks: where they come from, and how they become the files that the YAML files name."""
