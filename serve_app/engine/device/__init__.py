"""How a device computes: products, cores, pages, compiled code. Imports nothing else of ours."""
