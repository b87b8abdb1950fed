"""Recipe files: options of `consolidate`, written down. What they do is decided elsewhere."""
