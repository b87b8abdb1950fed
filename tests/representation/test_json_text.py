"""JSON from others' files: whatever is wrong with it is a `ValueError`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from consolidation.checkpoints.architecture import read_json
from consolidation.checkpoints.tensor_file import read_header, read_headers
from consolidation.errors import Refused
from consolidation.release import Registry
from consolidation.sources.needed_files import weight_files
from consolidation.statistics.text import read_calibration
from representation.json_text import parse_json

DEEP = "[" * 100_000
HALF = '{"prompt": "a \\uD83D", "completion": "b"}'


@pytest.mark.parametrize("text", [DEEP, DEEP.encode(), HALF, HALF.encode(), "{", b"\xff\xff\xff"])
def test_all_that_is_no_json_of_text_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_what_can_be_read_is_what_json_says() -> None:
    for text in ('{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}', "[1, 2.5, null]", '"\\u00e9"'):
        assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def read_pairs(path: Path) -> object:
    return read_calibration([path])


def shards(path: Path) -> object:
    return weight_files((), path.parent, is_adapter=False)


def headers(path: Path) -> object:
    return read_headers(path.parent)


@pytest.mark.parametrize("content", [DEEP, HALF.replace("completion", "weight_map")])
@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("pairs.jsonl", read_pairs),
        ("config.json", read_json),
        ("model.safetensors.index.json", shards),
        ("model.safetensors.index.json", headers),
    ],
)
def test_files_with_it_are_refused(
    name: str, reads: Callable[[Path], object], content: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(Refused, match=name):
        reads(tmp_path / name)


@pytest.mark.parametrize(
    "header",
    [DEEP, '{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}'],
)
def test_a_header_with_it_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(Refused, match=r"model\.safetensors"):
        read_header(path)


def test_a_release_whose_time_is_such_has_no_time(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path), "chat")
    registry.storage.write(f"releases/{'a' * 16}/published.json", DEEP.encode())
    assert registry.published_at("a" * 16) is None
