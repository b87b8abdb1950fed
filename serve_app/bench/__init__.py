"""The benchmarks: what is measured on this machine, and how. The command line prints it."""
