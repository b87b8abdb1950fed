"""The cache: whole or not there."""

from pathlib import Path

import pytest

from serve_app.demo.cache import cache_root, cached_family, is_whole, version_digest


class Making:
    """Writes a family of two models and counts how often; breaks off when told to."""

    def __init__(self) -> None:
        self.times = 0
        self.breaks = False

    def __call__(self, directory: Path) -> None:
        self.times += 1
        (directory / "base").mkdir()
        (directory / "base" / "model.safetensors").write_bytes(b"base")
        if self.breaks:
            raise KeyboardInterrupt
        (directory / "shout").mkdir()
        (directory / "shout" / "model.safetensors").write_bytes(b"shout")
        (directory / "made.json").write_text("[]")


def test_a_family_is_made_once(tmp_path: Path) -> None:
    make = Making()
    first = cached_family(tmp_path, make)
    second = cached_family(tmp_path, make)
    assert make.times == 1
    assert (first.is_new, second.is_new) == (True, False)
    assert list(second.models) == ["base", "shout"]
    assert first.directory == tmp_path / f"demo-{version_digest()}"


def test_an_interrupted_run_leaves_nothing_that_counts(tmp_path: Path) -> None:
    make = Making()
    make.breaks = True
    with pytest.raises(KeyboardInterrupt):
        cached_family(tmp_path, make, version="1")
    assert not (tmp_path / "demo-1").exists()
    make.breaks = False
    assert cached_family(tmp_path, make, version="1").is_new
    assert make.times == 2
    assert not (tmp_path / "demo-1.partial").exists()


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing", "added", "no index"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    make = Making()
    directory = cached_family(tmp_path, make, version="1").directory
    file = directory / "shout" / "model.safetensors"
    if damage == "altered":
        file.write_bytes(b"shouT")
    elif damage == "truncated":
        file.write_bytes(b"sho")
    elif damage == "missing":
        file.unlink()
    elif damage == "added":
        (directory / "shout" / "more").touch()
    else:
        (directory / "family.json").unlink()
    assert not is_whole(directory)
    assert cached_family(tmp_path, make, version="1").is_new
    assert is_whole(directory)
    assert file.read_bytes() == b"shout"


def test_another_version_is_another_family(tmp_path: Path) -> None:
    make = Making()
    cached_family(tmp_path, make, version="1")
    assert cached_family(tmp_path, make, version="2").is_new


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "expertpool"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "expertpool"
