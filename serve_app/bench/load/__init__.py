"""`bench load`: sends requests to one endpoint or engine when they are due."""
