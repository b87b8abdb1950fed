"""Functions of tensors and numbers alone. Reads no file and knows no checkpoint."""
