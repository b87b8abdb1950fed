"""Loads releases and backbones, and drops them, while steps run. Runs no step."""
