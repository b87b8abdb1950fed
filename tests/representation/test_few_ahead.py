"""Results in order, a few of them ahead."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from representation.few_ahead import AHEAD_BYTES, few_ahead, read_ahead


@given(items=st.lists(st.integers(), max_size=20), at_once=st.integers(1, 8))
def test_results_come_in_the_order_of_items(items: list[int], at_once: int) -> None:
    assert list(read_ahead(lambda n: n + 1, items, [1] * len(items), at_once)) == [
        n + 1 for n in items
    ]


def test_several_items_are_read_at_once() -> None:
    together = threading.Barrier(3)

    def read(item: int) -> int:
        together.wait(timeout=30)
        return item

    assert list(read_ahead(read, range(6), [1] * 6, 3)) == list(range(6))


@pytest.mark.parametrize(("at_once", "num_bytes"), [(1, 1), (16, AHEAD_BYTES)])
def test_one_at_a_time_is_read_only_when_it_is_asked_for(at_once: int, num_bytes: int) -> None:
    begun: list[int] = []
    read = read_ahead(lambda n: begun.append(n), range(4), [num_bytes] * 4, at_once)
    next(read)
    assert begun == [0]


def test_no_more_is_read_once_one_could_not_be() -> None:
    begun: list[int] = []

    def read(item: int) -> None:
        begun.append(item)
        raise OSError(f"item {item}")

    with pytest.raises(OSError, match="item 0"):
        list(read_ahead(read, range(100), [1] * 100, 2))
    assert len(begun) <= 4


def test_results_that_nobody_takes_are_few() -> None:
    begun: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        results = few_ahead(pool, 3, begun.append, range(100))
        next(results)
        results.close()
    assert len(begun) <= 4
