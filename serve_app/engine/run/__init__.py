"""Carrying out step plans: the forward, sampling, captured steps. Plans nothing."""
