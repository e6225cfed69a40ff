"""Deciding equality: values, sets, relations, and conditions of what `latex` has read."""
