"""How a device computes: products, cores, pages, compiled code. Knows nothing else of ours."""
