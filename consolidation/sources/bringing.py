"""Brings what models are read from to this machine. Opens no checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from consolidation.checkpoints.checkpoint import ModelFiles
from consolidation.sources.model_source import Location, ModelSource


def bring(
    models: Mapping[str, ModelSource], base: ModelSource | None
) -> tuple[dict[str, ModelFiles], ModelFiles | None]:
    """The directories of models and of their base, when they are here."""
    files = {name: _files(source) for name, source in models.items()}
    return files, _files(base) if base is not None else None


def _files(source: ModelSource) -> ModelFiles:
    adapter = _directory(source.adapter) if source.adapter is not None else None
    return ModelFiles(_directory(source), adapter)


def _directory(location: Location) -> Path:
    return Path(location.source)
