"""One number, and all the times that follow from it."""

import math
from typing import Any

import pytest
from ray.serve import Application

from serve_app.config import ServeConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.app import application
from serve_app.serving.graces import graces_of


@pytest.mark.parametrize("longest_s", [0.0, 0.5, 30.0, 600.0, 86_400.0])
def test_whoever_stops_something_waits_longer_than_what_it_stops(longest_s: float) -> None:
    graces = graces_of(longest_s)
    assert longest_s <= graces.engine_s < graces.ingress_s <= graces.balancer_s
    assert graces.balancer_s < graces.node_s < graces.pod_s


def test_requests_of_ten_minutes_give_the_times_that_cut_none_on_real_nodes() -> None:
    graces = graces_of(600)
    assert (graces.engine_s, graces.ingress_s, graces.node_s) == (600, 610, 630)
    assert (graces.balancer_s, graces.pod_s) == (610, 660)


def test_kubernetes_gets_whole_seconds_rounded_up() -> None:
    graces = graces_of(0.2)
    assert (graces.balancer_s, graces.pod_s) == (11, 61)


@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan])
def test_what_is_no_length_of_time_is_refused_by_name(wrong: float) -> None:
    with pytest.raises(ValueError, match=f"longest_request_s: {wrong}"):
        graces_of(wrong)


def test_both_deployments_have_the_graces_of_the_configuration() -> None:
    config = ServeConfig(drain_s=90, engine=EngineConfig(device="cpu"))
    ingress: Any = application(config)._bound_deployment
    engine = next(arg for arg in ingress.init_args if isinstance(arg, Application))
    graces = graces_of(90)
    assert ingress._deployment_config.graceful_shutdown_timeout_s == graces.ingress_s
    assert engine._bound_deployment._deployment_config.graceful_shutdown_timeout_s == 90
