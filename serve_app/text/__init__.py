"""Turns text into tokens and back, and finds stop strings. No HTTP, no Ray, no tensors."""
