"""Where no code was compiled, torch computes, and whoever could have had it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from serve_app.engine.device.native.library import library, native


@pytest.fixture(autouse=True)
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("serve_app.engine.device.native.library.PATH", tmp_path / "missing.so")
    library.cache_clear()
    yield
    library.cache_clear()


def test_code_that_is_missing_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "fma3": True})
    assert native() is None
    assert native() is None
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "torch computes instead" in record.message


@pytest.mark.parametrize("capabilities", [{"avx2": True, "fma3": False}, {}])
def test_nothing_is_told_on_a_cpu_that_could_not_run_it(
    capabilities: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native() is None
    assert not caplog.records
