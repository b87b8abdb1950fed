"""Measures releases and other methods, each model against its original. Builds no release."""
