"""The demonstration: a small family made on the spot, pooled, served and checked. Not an API."""
