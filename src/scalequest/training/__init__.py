"""Training stages: token-exact data, one small context that they share, and thin trainers over TRL."""
