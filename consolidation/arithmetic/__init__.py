"""Pure functions of tensors and numbers. Reads no file and knows no checkpoint."""
