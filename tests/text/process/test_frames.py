"""Messages as bytes: whole again however they were cut."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.text.process.frames import Frames, frame, pack, unpack

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(_PLAIN, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_messages_are_whole_however_the_bytes_were_cut(
    messages: list[Any], cuts: list[int]
) -> None:
    sent = b"".join(map(frame, messages))
    frames, found, begin = Frames(), [], 0
    while begin < len(sent):
        length = cuts[begin % len(cuts)]
        found += frames.feed(sent[begin : begin + length])
        begin += length
    assert found == messages


def test_text_that_is_not_valid_unicode_survives() -> None:
    assert unpack(pack("\ud800")) == "\ud800"


def test_what_is_not_plain_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, object()):
        with pytest.raises(ValueError, match="marshal"):
            pack(value)
