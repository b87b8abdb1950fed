"""How `make image-check` takes over pip's settings, and where it ends. Building takes minutes."""

import os
import shutil
from pathlib import Path

import pytest

from tests.image_check.builder import PROGRAMS, missing
from tests.image_check.contract import ROWS
from tests.image_check.pip_settings import as_file, merged, named_paths

LISTED = [
    ":env:.cert='/env.pem'",
    "global.cert='/file.pem'",
    "global.extra-index-url='file:///a/simple\\nfile:///b/simple'",
    "install.user='true'",
]


def test_the_environment_wins_over_files_as_pip_has_it() -> None:
    assert merged(LISTED)["cert"] == "/env.pem"


def test_values_of_several_lines_are_one_line_of_the_file() -> None:
    assert as_file(merged(LISTED)).splitlines() == [
        "[global]",
        "cert = /env.pem",
        "extra-index-url = file:///a/simple file:///b/simple",
    ]


def test_folders_that_are_here_are_brought_along_and_an_index_with_its_files(
    tmp_path: Path,
) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index" / "simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    settings = {
        "find-links": f"{wheels} {tmp_path}/none",
        "extra-index-url": f"https://index.example/simple file://{index}",
        "timeout": "180",
    }
    assert named_paths(settings) == [index.parent, wheels]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == PROGRAMS[0] else name)
    assert missing() == f"needs Debian's {PROGRAMS[0]}"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == "needs root, to build in a chroot"


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
