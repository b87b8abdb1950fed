"""The weights of benchmarks: random weights in the shapes of published families."""
