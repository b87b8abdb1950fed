"""Metrics: one table, what counts for it, and the ways to read it. Serves no request."""
