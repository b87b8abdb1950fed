"""Between text and tokens. No HTTP, no Ray, no tensors."""
