"""StopMatcher: never shows a stop string, holds back no more than it must."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.text.stops import StopMatcher

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4)
PIECES = st.lists(st.text("abc\n", max_size=3), max_size=20)


def _run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push(piece) for piece in pieces)
    return shown + matcher.flush(), matcher.matched


@given(STOPS, PIECES)
def test_the_result_does_not_depend_on_how_the_text_is_cut(
    stops: list[str], pieces: list[str]
) -> None:
    assert _run(stops, pieces) == _run(stops, list("".join(pieces)))
    assert _run(stops, pieces) == _run(stops, ["".join(pieces)])


@given(STOPS, PIECES)
def test_the_text_ends_where_the_first_complete_stop_string_begins(
    stops: list[str], pieces: list[str]
) -> None:
    text = "".join(pieces)
    shown, matched = _run(stops, pieces)
    ends = sorted({text.find(stop) + len(stop) for stop in stops if stop in text})
    if not ends:
        assert (shown, matched) == (text, None)
    else:
        assert matched is not None
        assert text[: ends[0]] == shown + matched
        assert all(stop not in shown for stop in stops)


@given(STOPS, PIECES)
def test_only_what_may_begin_a_stop_string_is_held_back(
    stops: list[str], pieces: list[str]
) -> None:
    matcher = StopMatcher(stops)
    text, shown = "", ""
    for piece in pieces:
        text += piece
        shown += matcher.push(piece)
        if matcher.matched is not None:
            return
        held = text[len(shown) :]
        assert text.startswith(shown)
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_nothing_is_shown_after_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("a E") == "a "
    assert matcher.push("ND b") == ""
    assert (matcher.push("c"), matcher.flush(), matcher.matched) == ("", "", "END")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher([""])
