"""Decides what runs next, on which place, in which blocks. No tensors, no clock."""
