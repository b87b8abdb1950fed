"""What benchmarks ask, when, and what became of it. Knows no engine and no HTTP."""
