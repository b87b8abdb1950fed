"""Copies on the host: within their bytes, the least recently used ones go, pinned ones never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scheduling.ledgers.host import HostLedger


def held(ledger: HostLedger, *backbones: str, num_bytes: int = 10) -> None:
    for backbone in backbones:
        ledger.take(backbone, num_bytes)
        ledger.unpin(backbone)


def test_where_all_fit_all_are_kept() -> None:
    for limit in (None, 30):
        ledger = HostLedger(limit)
        held(ledger, "a", "b", "c")
        assert all(backbone in ledger for backbone in "abc")
        assert ledger.num_bytes == 30
        assert ledger.fits(1) == (limit is None)


def test_the_least_recently_used_copies_go_for_another() -> None:
    ledger = HostLedger(30)
    held(ledger, "a", "b", "c")
    ledger.pin("a")  # used, and so the last
    ledger.unpin("a")
    assert ledger.take("d", 15) == ("b", "c")
    assert ["a" in ledger, "b" in ledger, "c" in ledger, "d" in ledger] == [
        True,
        False,
        False,
        True,
    ]


def test_a_pinned_copy_is_never_dropped() -> None:
    ledger = HostLedger(20)
    held(ledger, "a")
    ledger.take("b", 10)  # being read
    ledger.pin("a")
    assert ledger.take("c", 10) is None
    assert (ledger.num_bytes, ledger.give_back("a"), ledger.give_back("b")) == (20, False, False)
    ledger.unpin("a")
    assert ledger.take("c", 10) == ("a",)


def test_one_larger_than_all_room_finds_none_and_drops_nothing() -> None:
    ledger = HostLedger(20)
    held(ledger, "a", "b")
    assert ledger.take("c", 21) is None
    assert ledger.num_bytes == 20


def test_what_makes_no_sense_is_refused() -> None:
    ledger = HostLedger(20)
    ledger.take("a", 10)
    with pytest.raises(ValueError, match="'a' has a copy on the host already"):
        ledger.take("a", 10)
    with pytest.raises(ValueError, match="'a' has no copy on the host that is not in use"):
        ledger.pin("a")
    ledger.unpin("a")
    with pytest.raises(ValueError, match="'a' has no copy on the host that is in use"):
        ledger.unpin("a")
    for refused in (ledger.pin, ledger.unpin):
        with pytest.raises(ValueError, match="'b'"):
            refused("b")
    assert ledger.give_back("b"), "there is none"


actions = st.tuples(
    st.sampled_from(["take", "pin", "unpin", "drop"]), st.sampled_from("abcdef"), st.integers(1, 12)
)


@given(limit=st.integers(1, 40), done=st.lists(actions, max_size=60))
def test_whatever_happens_bytes_stay_within_the_limit(
    limit: int, done: list[tuple[str, str, int]]
) -> None:
    """Against a list of (backbone, bytes, pinned), the least recently used first."""
    ledger = HostLedger(limit)
    copies: list[tuple[str, int, bool]] = []
    for action, backbone, num_bytes in done:
        own = next((copy for copy in copies if copy[0] == backbone), None)
        others = [copy for copy in copies if copy is not own]
        if action == "take" and own is None:
            pinned = sum(size for _, size, is_pinned in copies if is_pinned)
            dropped = ledger.take(backbone, num_bytes)
            assert (dropped is None) == (pinned + num_bytes > limit)
            if dropped is not None:
                idle = [name for name, _, is_pinned in copies if not is_pinned]
                assert list(dropped) == idle[: len(dropped)]
                if dropped:  # with one less there would be no room
                    last = next(size for name, size, _ in copies if name == dropped[-1])
                    kept = sum(size for name, size, _ in copies if name not in dropped)
                    assert kept + last + num_bytes > limit
                copies = [copy for copy in copies if copy[0] not in dropped]
                copies.append((backbone, num_bytes, True))
        elif action == "pin" and own is not None and not own[2]:
            ledger.pin(backbone)
            copies = [*others, (backbone, own[1], True)]
        elif action == "unpin" and own is not None and own[2]:
            ledger.unpin(backbone)
            copies[copies.index(own)] = (backbone, own[1], False)
        elif action == "drop":
            is_pinned = own is not None and own[2]
            assert ledger.give_back(backbone) != is_pinned
            copies = copies if is_pinned else others
        assert ledger.num_bytes == sum(size for _, size, _ in copies) <= limit
        assert {name for name in "abcdef" if name in ledger} == {name for name, _, _ in copies}
        ledger.check([name for name, _, is_pinned in copies if not is_pinned])


def test_the_check_finds_copies_that_are_not_counted_and_those_that_are_not_there() -> None:
    ledger = HostLedger(20)
    ledger.take("a", 10)
    ledger.check([])
    ledger.unpin("a")
    with pytest.raises(AssertionError, match=r"\['a'\] are counted and not there"):
        ledger.check([])
    with pytest.raises(AssertionError, match=r"\['b'\] are not counted"):
        ledger.check(["a", "b"])
