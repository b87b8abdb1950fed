"""Runs of split parts: those of packed ones. Only the names of the planes differ."""

from serve_app.engine.experts.packed_linear import laid_of, runs_of

__all__ = ["laid_of", "runs_of"]
