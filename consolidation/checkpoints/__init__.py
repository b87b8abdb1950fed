"""Checkpoints: opened, accounted for and read a tensor at a time. Computes nothing."""
