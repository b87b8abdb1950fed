"""A response template that the operator gives is read, or refused with the file's name."""

import json
from pathlib import Path

import pytest

from serve_app.errors import ConfigError
from serve_app.text.answers.template_file import read_template_file

TEMPLATE = {"start_anchor": "A:", "fields": {"content": {}}}


def test_a_template_file_is_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    for given in (TEMPLATE, {"response_template": TEMPLATE, "arguments": "text"}):
        file.write_text(json.dumps(given))
        assert read_template_file(str(file)) == given


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is a JSON object"),
        (b'{"fields": {}}', "non-empty"),
    ],
)
def test_what_is_no_template_file_is_refused_by_name(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "t.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_template_file(str(file))
    assert str(file) in str(caught.value)
