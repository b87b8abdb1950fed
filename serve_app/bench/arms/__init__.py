"""What `bench compare` lets compete: ways of serving several models on one machine."""
