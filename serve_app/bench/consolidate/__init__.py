"""`bench consolidate`: seconds and memory of consolidating random checkpoints, by stage."""
