"""Decide whether values, sets, relations and conditions read by `latex` are equal."""
