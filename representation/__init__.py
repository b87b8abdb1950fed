"""What both halves know about a model family: architectures, formats. Imports neither half."""
