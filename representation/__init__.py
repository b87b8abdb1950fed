"""What both halves know of a model family: architectures, formats of experts. Neither half."""
