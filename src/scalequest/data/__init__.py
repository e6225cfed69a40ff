"""Training sets and benchmarks: download them and convert them to the files that our YAML files refer to."""
