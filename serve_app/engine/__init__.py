"""One packed forward pass for the tokens of all models. Knows torch, but not Ray or HTTP."""
