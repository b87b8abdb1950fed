"""Ways of serving several models on one machine, each in its own processes."""
