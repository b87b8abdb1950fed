"""What benchmarks ask, when, and the outcomes. Knows no engine and no HTTP."""
