"""From questions to an instruction-tuning set: solving, selection."""
