"""Carries out step plans: forward pass, sampling, captured steps. Plans nothing."""
