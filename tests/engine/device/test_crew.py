"""Threads of compiled code share work, whoever calls, and need not be there."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.native.library import Native, library
from serve_app.engine.device.native.products import Products

NUM_THREADS = 4


@pytest.fixture
def products() -> Products:
    code = library()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    return Products(Native(code, NUM_THREADS))


class Task:
    """A product that is worth sharing, of whole numbers, and what it must give."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randint(-4, 5, (24, 256), generator=generator).to(torch.bfloat16)
        self.matrix = torch.randint(-4, 5, (1, 512, 256), generator=generator).to(torch.bfloat16)
        self.expected = (self.x.float() @ self.matrix[0].float().t()).to(torch.bfloat16)

    def is_right(self, products: Products) -> bool:
        out = torch.full((24, 512), float("nan"), dtype=torch.bfloat16)
        products.multiply(self.x, self.matrix, Groups.counted([24]).bounds, None, out)
        return torch.equal(out, self.expected)


def test_work_is_done_once_and_whole_however_often(products: Products) -> None:
    tasks = [Task(seed) for seed in range(8)]
    assert all(tasks[number % 8].is_right(products) for number in range(2000))


def test_each_piece_is_done_once_by_no_more_threads_than_may(products: Products) -> None:
    code = library()
    assert code is not None
    piece_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    for number in range(600):
        num_threads = 2 + 2 * (number % 2)
        seen: list[tuple[int, int]] = []
        piece = piece_type(lambda _, piece, thread, seen=seen: seen.append((piece, thread)))
        code.share(piece, None, ctypes.c_int64(17), ctypes.c_int64(num_threads))
        assert sorted(piece for piece, _ in seen) == list(range(17))
        assert {thread for _, thread in seen} <= set(range(num_threads))


def test_several_callers_have_their_work_done_at_once(products: Products) -> None:
    tasks = [Task(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda number: tasks[number % 8].is_right(products), range(800))
        assert all(found)


def test_code_that_was_compiled_for_other_calls_is_not_used(
    products: Products, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.engine.device.native.library.INTERFACE", 0)
    assert library.__wrapped__() is None
    assert "install the package again" in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_process_that_was_forked_works_without_those_threads(
    products: Products,
) -> None:
    task = Task(0)
    assert task.is_right(products)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(task.is_right(products) for _ in range(20)) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
