"""Releases and backbones on their way in and out, beside the steps. Runs no step."""
