"""The paper's table, made again with Switch Transformers that are trained on the spot."""
