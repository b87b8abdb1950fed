"""Real checkpoints and data that lie beside a checkout, where there are any. Never part of it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODELS = ("bard", "code", "news", "sentiment")


def shared(path: str) -> Path:
    """A file or directory beside the checkout; the test is skipped where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"{found} is not there")
    return found
