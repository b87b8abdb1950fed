import pytest
import torch

from consolidation.arithmetic.triangular import SMALL, lower_factors, upper_inverses

SIZES = [1, 7, SMALL, SMALL + 1, 3 * SMALL + 5, 4 * SMALL]


def positive(count: int, size: int) -> torch.Tensor:
    """Positive definite matrices whose features differ in size a thousand times."""
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(count, size, 2 * size, generator=generator, dtype=torch.float64)
    rows *= torch.logspace(0, -3, size, dtype=torch.float64)[:, None]
    return rows @ rows.mT / (2 * size)


@pytest.mark.parametrize("size", SIZES)
def test_factors_are_those_of_lapack(size: int) -> None:
    matrices = positive(3, size)
    found, wanted = lower_factors(matrices), torch.linalg.cholesky(matrices)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)
    assert torch.equal(found, found.tril())


@pytest.mark.parametrize("size", SIZES)
def test_an_inverse_times_its_matrix_changes_nothing(size: int) -> None:
    factors = torch.linalg.cholesky(positive(3, size)).mT
    found = upper_inverses(factors)
    whole = torch.eye(size, dtype=torch.float64).expand(3, size, size)
    torch.testing.assert_close(found @ factors, whole, rtol=0, atol=1e-9)
    assert torch.equal(found, found.triu())


def test_one_matrix_gives_the_same_alone_as_among_others() -> None:
    matrices = positive(3, 2 * SMALL)
    assert torch.equal(lower_factors(matrices)[1], lower_factors(matrices[1:2])[0])
    factors = lower_factors(matrices).mT
    assert torch.equal(upper_inverses(factors)[1], upper_inverses(factors[1:2])[0])


def test_what_is_not_positive_definite_has_no_factor() -> None:
    with pytest.raises(RuntimeError, match="not positive-definite"):
        lower_factors(-positive(1, 2 * SMALL))
