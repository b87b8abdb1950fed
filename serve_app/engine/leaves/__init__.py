"""Modules with the weights of several backbones, in place of those of a stock model."""
