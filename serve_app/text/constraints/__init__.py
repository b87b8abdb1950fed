"""What an answer must obey, as one grammar of all that the model writes. Compiles nothing."""
