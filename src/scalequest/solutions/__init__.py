"""Turn questions into an instruction-tuning set: solve, score, select, assemble."""
