"""The whole way at the published width, with two of its layers."""

import sys
from pathlib import Path

import pytest

from tests.real_size.__main__ import main


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_two_layers_are_made_consolidated_served_and_answer_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert main(["--layers", "2"]) == 0
