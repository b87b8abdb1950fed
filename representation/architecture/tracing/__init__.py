"""Runs models without data, and notes what that shows. Judges none."""
