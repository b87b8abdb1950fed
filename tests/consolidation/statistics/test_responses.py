"""Predicted divergences are set right by what a fine and a coarse rounding did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation.statistics.responses import Response, responses

positive = st.floats(1e-9, 1e3)


@given(positive, st.floats(1.5, 1e4), positive, st.floats(1.01, 1e4))
def test_a_response_gives_what_coarse_rounding_did_and_never_falls(
    cost: float, more: float, found: float, rise: float
) -> None:
    coarse = (cost * more, found * rise)
    response = responses({"a": [(cost, found), coarse]})["a"]
    assert response.linear >= 0
    assert response.root >= 0
    assert response(0.0) == 0
    assert response(coarse[0]) == pytest.approx(coarse[1], rel=1e-3) or response.linear == 0
    values = [response(cost * step) for step in (0.0, 0.5, 1.0, 2.0, 100.0)]
    assert values == sorted(values)


def test_models_share_how_often_their_routers_tip() -> None:
    tips = [(1e-4, 1e-2), (1e-2, 1e-1)]  # a root, and nothing else
    found = responses({"a": tips, "b": tips, "c": [(1e-4, 1e-4), (1e-2, 1e-2)]})
    assert [one.root for one in found.values()] == [pytest.approx(1.0)] * 3
    assert found["c"](1e-4) > 1e-4


def test_a_response_is_the_cost_itself_where_nothing_is_known() -> None:
    assert Response()(0.25) == 0.25
    assert Response(2.0, 1.0)(0.25) == 1.0
    assert Response(2.0, 1.0)(-1e-20) == pytest.approx(0.0)
