"""From a question generator to the questions that are worth solving: generation, rewriting, filters."""
