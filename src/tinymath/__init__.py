"""TinyMath: a procedural micro-domain of arithmetic stories, its oracle, and rewriting rules."""
