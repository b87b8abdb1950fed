"""Divergences in float32 are those of float64, small ones and wild ones too."""

import math

import pytest
import torch
from torch.nn import functional

from consolidation.statistics import divergence
from consolidation.statistics.divergence import compared, divergences, losses


def drawn(seed: int, count: int = 6) -> torch.Tensor:
    return 2 * torch.randn(count, 500, generator=torch.Generator().manual_seed(seed))


def exact(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    log_p, log_q = (functional.log_softmax(each.double(), -1) for each in (one, two))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize(("size", "rel"), [(1e-4, 0.02), (1e-2, 1e-5), (1.0, 1e-6), (60.0, 1e-6)])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_a_divergence_is_found_whatever_is_added_to_all_logits(
    size: float, rel: float, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "PART_VALUES", 1000)  # parts of two positions
    one = drawn(0)
    two = one + size * drawn(1) + shift
    tokens = torch.arange(6)
    found, wanted = compared(one, two, tokens), exact(one, two)
    assert found.divergence.tolist() == pytest.approx(wanted.tolist(), rel=rel)
    assert torch.equal(divergences(one, two), found.divergence)
    for logits, loss in ((one, found.loss), (two, found.other_loss)):
        right = functional.cross_entropy(logits.double(), tokens, reduction="none")
        assert loss.tolist() == pytest.approx(right.tolist(), abs=5e-6, rel=1e-6)
    torch.testing.assert_close(losses(one, tokens), found.loss, rtol=1e-6, atol=5e-6)


def test_equal_logits_have_no_divergence_and_the_same_loss() -> None:
    found = compared(drawn(0), drawn(0), torch.zeros(6, dtype=torch.long))
    assert found.divergence.tolist() == [0.0] * 6
    assert torch.equal(found.loss, found.other_loss)


def test_a_token_that_is_ruled_out_adds_nothing_and_one_that_is_needed_everything() -> None:
    one, two = drawn(0, 2), drawn(1, 2)
    one[:, 7] = -torch.inf
    two[0, 7] = -torch.inf
    two[1, 8] = -torch.inf
    found = divergences(one, two)
    kept = torch.arange(500) != 7
    assert float(found[0]) == pytest.approx(float(exact(one[:1, kept], two[:1, kept])), rel=1e-6)
    assert math.isinf(float(found[1]))
