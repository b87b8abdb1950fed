"""What masks of bits leave of logits."""

import numpy as np
import pytest
import torch

from serve_app.engine.run.masking import masked

RANDOM = np.random.default_rng(0)
WORDS = torch.from_numpy(RANDOM.integers(-(2**31), 2**31, (3, 4), dtype=np.int64).astype(np.int32))
BITS = torch.from_numpy(np.unpackbits(WORDS.numpy().view(np.uint8), axis=1, bitorder="little"))


@pytest.mark.parametrize("size", [100, 128, 140])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rows", [[0, 1, 2], [2, 0], [1, 1, 1, 0], [None, 2, None, 0], [None], [None, 0, 1, 2]]
)
def test_what_has_no_bit_is_refused_and_all_else_stays_to_the_bit(
    rows: list[int | None], dtype: torch.dtype, size: int
) -> None:
    logits = torch.randn(len(rows), size, dtype=dtype)
    logits[0, 7] = float("-inf")
    before = logits.clone()
    got = masked(logits, rows, WORDS)
    for at, row in enumerate(rows):
        expected = before[at].clone()
        if row is not None:
            refused = torch.ones(size, dtype=torch.bool)
            num = min(size, BITS.shape[1])
            refused[:num] = BITS[row, :num] == 0
            expected[refused] = float("-inf")
        assert torch.equal(got[at], expected)
    assert torch.equal(logits, before)
