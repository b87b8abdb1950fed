"""One HTML file about what a benchmark found, for people. Measures nothing."""
