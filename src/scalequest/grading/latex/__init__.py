"""Parse answers: characters, tokens, numbers, words, formulas, and the structure of an answer."""
