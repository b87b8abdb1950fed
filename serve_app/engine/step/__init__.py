"""What a running step is made of, as values and tensors of indices. Computes nothing."""
