"""What an architecture is, and whether it can be served, for both halves. Reads no tensor."""
