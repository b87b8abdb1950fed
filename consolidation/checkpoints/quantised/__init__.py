"""Weights that are stored in few bits, one way a file; their readers see plain tensors."""
