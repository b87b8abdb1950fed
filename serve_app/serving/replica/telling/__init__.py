"""What a replica tells of itself, and what an operator changes in its memory. Serves no request."""
