"""Ways of serving several models on one machine, each in processes of its own."""
