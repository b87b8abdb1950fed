"""`expertpool bench compare`: what it makes of its options. No arm is opened."""

from collections.abc import Mapping
from typing import Any

import pytest

from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.compare import compare
from serve_app.bench.compare.compare import Turns
from serve_app.bench.result.result import Result
from serve_app.cli.main import run

COMMAND = ["bench", "compare", "--layers", "1", "--device", "cpu"]


class Told(Exception):
    """Ends the command before anything is measured."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Ground, Turns, Mapping[str, Any]]]:
    """What the command asks for."""
    found: list[tuple[Ground, Turns, Mapping[str, Any]]] = []

    def measure_arms(
        ground: Ground,
        _asked: object,
        _workload: object,
        turns: Turns,
        settings: Mapping[str, Any],
        _on_progress: object,
    ) -> Result:
        found.append((ground, turns, settings))
        raise Told

    monkeypatch.setattr(compare, "measure_arms", measure_arms)
    return found


def test_a_consolidated_shape_is_asked_at_a_share_of_what_a_peer_sustains(
    told: list[tuple[Ground, Turns, Mapping[str, Any]]],
) -> None:
    run(
        [
            *COMMAND,
            *("--arms", "pool,llama.cpp-q4_0"),
            *("--parts", "split-8-128", "--residual", "packed-2-128"),
            *("--load", "0.6", "--load-of", "llama.cpp-q4_0"),
        ]
    )
    ((ground, turns, settings),) = told
    assert isinstance(ground.source, RandomSpec)
    assert (ground.source.parts, ground.source.residuals) == ("split-8-128", ("packed-2-128",))
    assert ground.models == ("m0", "m1", "m2", "m3")
    assert turns.arms == ["pool", "llama.cpp-q4_0"]
    assert (turns.at_once, turns.rate, turns.share, turns.share_of) == (
        None,
        None,
        0.6,
        "llama.cpp-q4_0",
    )
    assert (settings["parts"], settings["residuals"]) == ("split-8-128", ["packed-2-128"])


def test_by_default_requests_come_at_a_share_of_what_the_pool_sustains(
    told: list[tuple[Ground, Turns, Mapping[str, Any]]],
) -> None:
    run(COMMAND)
    ((_, turns, settings),) = told
    assert (turns.share, turns.share_of, turns.duration_s) == (0.7, "pool", 60.0)
    assert settings["duration_s"] == 60.0


def test_requests_at_once_are_sent_at_no_rate(
    told: list[tuple[Ground, Turns, Mapping[str, Any]]],
) -> None:
    run([*COMMAND, "--models", "1", "--at-once", "64", "--sequences", "16"])
    ((ground, turns, settings),) = told
    assert turns.at_once == settings["at_once"] == 64
    assert ground.engine.max_sequences == 16
    assert settings["duration_s"] is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--at-once", "4", "--rate", "2"], "with --at-once there is no --rate"),
        (["--at-once", "4", "--duration", "9"], "with --at-once there is no --rate"),
        (["--rate", "2", "--load-of", "pool"], "give either --rate or --load"),
        (["--load-of", "nobody"], "'nobody' is not one of pool, "),
        (["--load-of", "pool,swap"], "give one, not several"),
        (["--arms", "llama"], "'llama' is not one of pool, "),
        (["--parts", "dense,packed-4-128"], "give one, not several"),
        (["--residual", "none,packed-1-128"], "give one, not several"),
        (["--parts", "packed-9-128"], "packed-9-128"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*COMMAND, *options]) == 2
    assert why in " ".join(capsys.readouterr().err.split())
