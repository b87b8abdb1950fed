"""State of sequences that does not grow, and the mixers that read and write it."""
