"""A part that its storage does not give is asked for again, and others stay read."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.release import Damaged, Registry, StorageFailed
from serve_app.serving.patient_reader import PAUSES_S, PatientReader
from tests.consolidation.release.test_registry import blob_file, make_release


class Away:
    """A registry's storage that fails as often as it is told to."""

    def __init__(self, inner: Any, times: int) -> None:
        self._inner, self.left = inner, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, path: str, num_bytes: int | None = None) -> bytes | None:
        if self.left:
            self.left -= 1
            raise StorageFailed(f"cannot read {path}: nobody answers")
        data: bytes | None = self._inner.read(path, num_bytes)
        return data


class Opened:
    """A reader of a release, and the pauses that it made."""

    def __init__(self, path: Path) -> None:
        self.registry = Registry(str(path), "fam")
        self.manifest = make_release(self.registry)
        self.pauses: list[float] = []
        release = self.registry.publish(self.manifest)
        self.reader = PatientReader(self.registry, release, self.pauses.append)

    def fails(self, times: int) -> None:
        self.registry.storage = Away(self.registry.storage, times)


def test_a_storage_that_comes_back_costs_a_pause_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(tmp_path)
    opened.fails(2)
    with caplog.at_level(logging.WARNING):
        tensors = opened.reader.read_slot(0, 1)
    assert torch.equal(tensors["up"], torch.full((2, 3), 2.0))
    assert opened.pauses == [1.0, 2.0]
    told = caplog.records[0].getMessage()
    assert "nobody answers; what was read is kept, and it is tried again in 1 s" in told


def test_a_storage_that_stays_away_is_given_up(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    opened.fails(99)
    with pytest.raises(StorageFailed, match="nobody answers"):
        opened.reader.read_slot(0, 0)
    assert opened.pauses == list(PAUSES_S)


def test_a_damaged_file_is_not_waited_for(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    (tmp_path / "fam" / blob_file(opened.registry, opened.manifest.layers[0].slots[0])).write_bytes(
        b"x"
    )
    with pytest.raises(Damaged):
        opened.reader.read_slot(0, 0)
    assert opened.pauses == []


def test_a_backbone_is_not_waited_for_since_requests_are(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    opened.fails(1)
    with pytest.raises(StorageFailed):
        list(opened.reader.read_backbone("a"))
    assert opened.pauses == []
