"""What one long request does to a running stream, and to the memory of an endpoint's processes."""
