"""Benchmarks, the harness that runs a model over them, statistics, tables of result files."""
