"""Log lines: what is in one, how it is written, and how many. Knows no request and no engine."""
