"""Several checkpoints of one family in, one published release out. Serves nothing."""
