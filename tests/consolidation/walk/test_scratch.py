from concurrent.futures import ThreadPoolExecutor

import torch

from consolidation.walk.scratch import Scratch


def test_tensors_come_back_from_memory_and_from_the_file() -> None:
    tensors = [torch.randn(3, 5), torch.randn(7), torch.randint(9, (2, 2)), torch.zeros(0)]
    with Scratch(held_bytes=70) as scratch:
        for key, tensor in enumerate(tensors):
            scratch.put(key, tensor)
        for key, tensor in enumerate(tensors):
            assert torch.equal(scratch.get(key), tensor)


def test_a_key_keeps_its_place() -> None:
    with Scratch(held_bytes=16) as scratch:
        for turn in range(3):
            for key in range(3):
                scratch.put(key, torch.full((4,), float(10 * turn + key)))
            found = [float(scratch.get(key)[0]) for key in range(3)]
            assert found == [10 * turn, 10 * turn + 1, 10 * turn + 2]
        assert scratch._end == 2 * 16


def test_a_tensor_of_another_size_may_take_the_place_of_one() -> None:
    with Scratch(held_bytes=16) as scratch:
        for sizes in ((2, 6), (4, 3), (5, 7), (1, 2)):
            tensors = [torch.randn(size) for size in sizes]
            for key, tensor in enumerate(tensors):
                scratch.put(key, tensor)
            for key, tensor in enumerate(tensors):
                assert torch.equal(scratch.get(key), tensor)


def test_several_threads_may_put_and_get_at_a_time() -> None:
    tensors = [torch.full((1000,), float(number)) for number in range(64)]
    with Scratch(held_bytes=16_000) as scratch, ThreadPoolExecutor(8) as pool:
        list(pool.map(scratch.put, range(64), tensors))
        found = list(pool.map(scratch.get, range(64)))
    assert all(torch.equal(one, other) for one, other in zip(found, tensors, strict=True))
