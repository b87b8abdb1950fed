"""Every format in the list has all that one needs: this tells you that a new one is complete."""

import pytest

from consolidation.compare.costs import cost_of
from consolidation.report.drawing import PALETTE
from representation.formats import FORMATS
from serve_app.engine.experts.runs import file_of


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_has_a_cost_and_runs(kind: str) -> None:
    cost = cost_of(kind)
    for fmt in (*cost.slots, *cost.residuals):
        assert fmt.kind == kind
    assert all(fmt.stands_as(residual=False) for fmt in cost.slots)
    assert all(fmt.stands_as(residual=True) for fmt in cost.residuals)
    assert callable(file_of(kind).runs_of)
    assert callable(file_of(kind).laid_of)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_stands_somewhere_and_says_how_it_looks(kind: str) -> None:
    fmt = FORMATS[kind]
    assert fmt.stands_as(residual=False) or fmt.stands_as(residual=True)
    assert (fmt.shared_slot is None) == (fmt.own_slot is None)
    for look in (fmt.shared_slot, fmt.own_slot, fmt.residual):
        assert look is None or (look.name and look.colour in PALETTE)
    assert fmt.spelling.split("-")[0] == kind
