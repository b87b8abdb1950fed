"""How a device computes: products, cores, pages, compiled code. Of ours it imports errors alone."""
