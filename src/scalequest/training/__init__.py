"""Training stages: token-exact data, a small shared context, and thin trainers on top of TRL."""
