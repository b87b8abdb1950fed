"""Equal tensors of backbones in several places are one row, and a place can always be filled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scheduling.ledgers.backbone_rows import BackboneRows, Contents, distinct_contents

A = {"embedding": "e", "router": "ra"}
B = {"embedding": "e", "router": "rb"}
C = {"embedding": "other", "router": "rc"}


def rows_for(num_places: int, *backbones: Contents) -> BackboneRows:
    distinct = distinct_contents(backbones)
    return BackboneRows(num_places, {s: min(num_places, n) for s, n in distinct.items()})


def test_what_is_equal_is_one_row_and_what_differs_has_its_own() -> None:
    rows = rows_for(2, A, B)
    assert rows.num_rows == {"embedding": 1, "router": 2}
    assert rows.put(1, A) == {"embedding": 0, "router": 1}
    assert rows.put(0, B) == {"embedding": 0, "router": 0}
    rows.clear(1)
    assert rows.rows(1) is None
    assert rows.rows(0) == {"embedding": 0, "router": 0}, "the other is left alone"
    rows.check()


def test_a_row_goes_with_the_last_place_that_reads_it() -> None:
    rows = BackboneRows(3, {"embedding": 2, "router": 3})
    first = rows.put(0, A)["embedding"]
    rows.put(1, B)
    second = rows.put(2, C)["embedding"]
    assert first != second
    rows.clear(0)
    with pytest.raises(ValueError, match="each of 2 rows is in use"):
        rows.put(0, {"embedding": "third", "router": "x"})
    assert rows.rows(0) is None, "nothing has changed"
    rows.clear(1)
    assert rows.put(0, {"embedding": "third", "router": "x"})["embedding"] == first


def test_a_place_that_is_given_to_another_backbone_counts_as_free() -> None:
    rows = BackboneRows(3, {"embedding": 2, "router": 3})
    rows.put(0, A)
    rows.put(1, C)
    assert rows.put(0, {"embedding": "third", "router": "x"}) == {"embedding": 0, "router": 0}


def test_rows_that_were_shared_are_copied_once_each_place_has_its_own() -> None:
    rows = rows_for(2, A, B)
    rows.put(0, A)
    rows.put(1, B)
    wanted = rows.wanted([A, B, C])
    assert wanted == {"embedding": 2, "router": 2}
    assert rows.grow(wanted) == {"embedding": [0, 0]}
    assert rows.rows(0) == {"embedding": 0, "router": 0}
    assert rows.rows(1) == {"embedding": 1, "router": 1}
    assert rows.grow(wanted) == {}
    with pytest.raises(ValueError, match="cannot shrink to 1"):
        rows.grow({"embedding": 1})


def test_rows_that_stay_shared_keep_their_numbers() -> None:
    rows = BackboneRows(3, {"embedding": 1})
    rows.put(0, {"embedding": "e"})
    assert rows.grow({"embedding": 2}) == {"embedding": [0, None]}
    assert rows.put(1, {"embedding": "f"}) == {"embedding": 1}
    assert rows.put(2, {"embedding": "e"}) == {"embedding": 0}


def test_a_stack_has_a_row_and_none_too_many() -> None:
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"stack 'a': {count} rows for 2 places"):
            BackboneRows(2, {"a": count})


backbones = st.fixed_dictionaries(
    {"a": st.sampled_from("xy"), "b": st.sampled_from("vwxyz"), "c": st.sampled_from("x")}
)


@given(
    num_places=st.integers(1, 4),
    releases=st.lists(st.lists(backbones, min_size=1, max_size=5), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_known_backbone_can_be_put_into_any_place_at_any_time(
    num_places: int, releases: list[list[Contents]], data: st.DataObject
) -> None:
    """Releases come and go between; what a place holds stays what it was told to hold."""
    rows = rows_for(num_places, *releases[0])
    known: list[list[Contents]] = []
    holds: dict[int, Contents] = {}
    memory: dict[tuple[str, int], str] = {}  # what was written last to each row
    for release in releases:
        wanted = rows.wanted([contents for of in [*known, release] for contents in of])
        for stack, sources in rows.grow(wanted).items():
            before = {row: memory.get((stack, row)) for row in range(num_places)}
            for row, source in enumerate(sources):
                memory[stack, row] = "" if source is None else before[source] or ""
        known.append(release)
        for _ in range(data.draw(st.integers(0, 6))):
            place = data.draw(st.integers(0, num_places - 1))
            if data.draw(st.booleans()):
                rows.clear(place)
                holds.pop(place, None)
            else:
                of = data.draw(st.sampled_from(known))
                holds[place] = data.draw(st.sampled_from(of))
                for stack, row in rows.put(place, holds[place]).items():
                    memory[stack, row] = holds[place][stack]
            rows.check()
            for at, contents in holds.items():
                found = rows.rows(at)
                assert found is not None
                assert {s: memory[s, row] for s, row in found.items()} == contents
                assert all(row < rows.num_rows[stack] for stack, row in found.items())
        if len(known) > 1 and data.draw(st.booleans()):
            known.pop(0)  # what is of it may be in places still
