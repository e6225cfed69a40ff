"""Generate, rewrite and filter questions."""
