"""Serving: one engine for all models of a release, behind an OpenAI-compatible endpoint."""
