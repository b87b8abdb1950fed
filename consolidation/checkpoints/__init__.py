"""Opens checkpoints, accounts for every tensor, reads one at a time. Computes nothing."""
