"""Stages in their order: read ahead, started one by one, skipped if finished, ended whatever happens."""
