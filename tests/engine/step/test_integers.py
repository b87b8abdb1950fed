"""Integers reach the device together, as they were put."""

import pytest
import torch

from serve_app.engine.step.integers import CHUNK_BYTES, Integers

CPU = torch.device("cpu")


@pytest.mark.parametrize("stages", [False, True])
def test_what_was_put_is_there_once_it_is_sent(stages: bool) -> None:
    integers = Integers(CPU, stages=stages)
    long = list(range(CHUNK_BYTES // 8 + 5))
    put = [
        (integers.put([1, 2, 3]), [1, 2, 3], torch.int64),
        (integers.put([], torch.int32), [], torch.int32),
        (integers.put([7], torch.int32), [7], torch.int32),
        (integers.put(long), long, torch.int64),
        (integers.put_rows([range(3), range(3, 6)]), [[0, 1, 2], [3, 4, 5]], torch.int64),
    ]
    integers.send()
    for tensor, values, dtype in put:
        assert tensor.tolist() == values
        assert tensor.dtype == dtype
        assert tensor.is_contiguous()


def test_the_integers_of_a_step_take_one_copy() -> None:
    integers = Integers(CPU, stages=True)
    first, second = integers.put([1, 2, 3]), integers.put_rows([[4], [5]], torch.int32)
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    later = Integers(CPU, stages=True).put([6])
    assert later.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
