"""Whoever serves, plans or measures an engine offers its settings, each defined once."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import typer

from serve_app.cli import serving
from serve_app.cli.engine_options import PANEL, engine_options, given_options, option_of
from serve_app.cli.main import app, run
from serve_app.config import ServeConfig
from serve_app.engine.config import SETTINGS, EngineConfig
from serve_app.engine.memory import plan_memory
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

ALL = {option_of(name) for name in SETTINGS}
CHANGED = EngineConfig(
    device="cpu",
    dtype="float32",
    device_memory=24 << 30,
    host_memory=500_000_000,
    kv_tokens=4096,
    num_places=3,
    step_tokens=99,
    max_sequences=7,
    max_model_wait_s=0.5,
    min_residency_s=1.5,
    max_batch_wait_s=60.0,
    prefix_cache=False,
    cuda_graphs=False,
    int8_activations=False,
    plan_ahead=True,
)
"""Differs from the defaults in every field."""
FLAGS = [
    *("--device", "cpu", "--dtype", "float32", "--device-memory", "24GiB"),
    *("--host-memory", "500MB", "--kv-tokens", "4096", "--num-places", "3"),
    *("--step-tokens", "99", "--max-sequences", "7", "--max-model-wait", "0.5"),
    *("--min-residency", "1.5"),
    *("--max-batch-wait", "60"),
    *("--no-prefix-cache", "--no-cuda-graphs", "--no-int8-activations", "--plan-ahead"),
]


def offered(*command: str) -> set[str]:
    """The options of an engine that a command has."""
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    return {each.opts[0] for each in found.params if each.rich_help_panel == PANEL}


def test_serving_planning_and_putting_load_on_an_engine_offer_every_setting_of_it() -> None:
    assert offered("serve") == offered("plan-memory") == offered("bench", "load") == ALL


def test_a_benchmark_offers_what_its_points_do_not_decide() -> None:
    assert {"--device", "--dtype", "--step-tokens", "--cuda-graphs"} <= offered("bench", "step")
    assert {"--device", "--dtype", "--step-tokens", "--cuda-graphs"} <= offered("bench", "compare")
    assert "--kv-tokens" not in offered("bench", "step") | offered("bench", "compare")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_read_to_plan_memory_can_be_told_to_plan_memory(device: str) -> None:
    read: set[str] = set()

    class Watched(EngineConfig):
        def __getattribute__(self, name: str) -> Any:
            if name in SETTINGS:
                read.add(name)
            return super().__getattribute__(name)

    config = Watched(device=device, device_memory=1 << 30)
    read.clear()
    plan_memory(MemorySource("r1", {"m1": tiny_model("mixtral", 1)}), config)
    assert {"device_memory", "host_memory", "kv_tokens", "num_places", "step_tokens"} <= read
    assert {option_of(name) for name in read} <= offered("plan-memory")


def test_serve_and_plan_memory_make_the_same_of_the_same_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[EngineConfig] = []
    served: list[ServeConfig] = []
    monkeypatch.setattr(serving, "resolve", lambda *_: "r1")
    monkeypatch.setattr(serving, "_print_plan", lambda *_: None)
    monkeypatch.setattr(serving, "_print_step", lambda *_: None)
    monkeypatch.setattr("consolidation.release.ReleaseReader", lambda *_: Mock())
    monkeypatch.setattr(
        "serve_app.engine.memory.plan_memory", lambda _, config: planned.append(config)
    )
    monkeypatch.setattr("serve_app.serving.run.run", lambda config, *_, **__: served.append(config))
    where = ["--family", "f", "--registry", str(tmp_path)]
    for flags, meant in (([], EngineConfig()), (FLAGS, CHANGED)):
        assert run(["plan-memory", *where, *flags]) == run(["serve", *where, *flags]) == 0
        assert planned.pop() == served.pop().engine == meant


def test_what_is_not_a_default_was_given() -> None:
    assert set(given_options(CHANGED)) == ALL
    assert given_options(replace(EngineConfig(), prefix_cache=False)) == ["--prefix-cache"]
    assert given_options(EngineConfig()) == []


def test_a_command_decides_some_settings_and_has_defaults_of_its_own() -> None:
    told: list[EngineConfig] = []
    other = typer.Typer()

    @other.command()
    @engine_options(without=("kv_tokens",), step_tokens=2048)
    def command(engine: EngineConfig) -> None:
        told.append(engine)

    made = typer.main.get_command(other)
    made.main(["--no-cuda-graphs"], standalone_mode=False)
    assert told == [EngineConfig(step_tokens=2048, cuda_graphs=False)]
    with pytest.raises(typer.TyperException):
        made.main(["--kv-tokens", "1"], standalone_mode=False)
