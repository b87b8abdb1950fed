"""The engine: one packed forward for the tokens of all models. Knows torch; not Ray, not HTTP."""
