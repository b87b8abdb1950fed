"""What benchmarks measure on: shapes of published families, and random weights of them."""
