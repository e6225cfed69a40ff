"""TinyMath: a procedural micro-domain of arithmetic stories, its oracle, and the rules that rewrite its questions."""
