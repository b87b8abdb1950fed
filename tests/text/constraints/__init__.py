"""What answers in each format must obey."""
