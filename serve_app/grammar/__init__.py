"""Which tokens of an answer may come next, by a grammar. Knows llguidance, no model, no HTTP."""
