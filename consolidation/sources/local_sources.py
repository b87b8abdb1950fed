"""Directories of this machine as sources of models."""

from collections.abc import Mapping
from pathlib import Path

from consolidation.sources.model_source import Find, Kind, ModelSource


def found_from(directory: Path) -> Find:
    """What paths mean that are relative to a directory."""

    def find(text: str) -> str | None:
        try:
            path = Path(directory, Path(text).expanduser())
            return str(path.absolute()) if text and path.exists() else None
        except (OSError, RuntimeError, ValueError):  # too long, ~nobody, or a character of no path
            return None

    return find


def local_source(directory: Path) -> ModelSource:
    """A checkpoint's directory."""
    return ModelSource(Kind.DIRECTORY, str(directory.absolute()))


def local_models(directories: Mapping[str, Path]) -> dict[str, ModelSource]:
    """Checkpoints' directories, by model."""
    return {name: local_source(directory) for name, directory in directories.items()}
