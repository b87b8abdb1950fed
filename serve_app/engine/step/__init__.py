"""The parts of a running step, as values and tensors of indices. Computes nothing."""
