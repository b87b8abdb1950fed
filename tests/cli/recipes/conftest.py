"""A directory with what a recipe may name, and `consolidate` up to where the work begins."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consolidation.recipe import Recipe
from serve_app.cli.main import run

Understood = Callable[..., Recipe]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("math", "step=100+a@b", "base", "registry"):
        (tmp_path / name).mkdir()
    for name in ("all.txt", "own=1.txt", "math.txt", "math.jsonl"):
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> Understood:
    """Runs `expertpool consolidate …`; gives the recipe that it would carry out."""
    found: list[Recipe] = []

    def note(recipe: Recipe, *_: Any, **__: Any) -> Any:
        found.append(recipe)
        return SimpleNamespace(manifest=None, release=None)

    monkeypatch.setattr("serve_app.cli.consolidate._run", note)
    monkeypatch.setattr("serve_app.cli.consolidate._expert_bytes", lambda _, memory: memory)
    monkeypatch.setattr("serve_app.cli.consolidate.resolve", lambda _, release: release)

    def understood(*arguments: str | Path) -> Recipe:
        assert run(["consolidate", *map(str, arguments)]) == 0
        return found[-1]

    return understood
