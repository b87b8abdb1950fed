"""`bench load`: requests put to one endpoint or engine when they are due."""
