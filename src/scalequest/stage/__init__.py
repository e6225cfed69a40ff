"""The folder of a stage, its blocks and receipt, and what every script does around it."""
