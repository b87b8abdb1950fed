"""What an operator sets reaches the engine."""

from concurrent.futures import Future
from typing import Any

import pytest

from serve_app.config import ServeConfig
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.serving import assembly
from serve_app.serving.replica.neighbours import Alone
from serve_app.text.process.text_client import TextClient
from tests.serving.fakes import source
from tests.text.process.inline import InlineProcess


class _Loop:
    """Makes the engine at once, and loads nothing."""

    def __init__(self, make: Any) -> None:
        make(lambda: None)

    def stage(self, _: Any, *, may_lack: bool) -> "Future[None]":
        assert may_lack, "nothing else could be served"
        done: Future[None] = Future()
        done.set_result(None)
        return done


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"device_memory": 5000, "kv_tokens": 64, "num_places": 2, "dtype": "bfloat16"},
        {"prefix_cache": False},
        {"cuda_graphs": False},
        {"host_memory": 7000},
        {"step_tokens": 99, "max_sequences": 7, "max_model_wait_s": 0.5, "plan_ahead": True},
    ],
)
def test_the_engine_is_opened_as_configured(
    settings: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[EngineConfig] = []
    monkeypatch.setattr(assembly, "EngineLoop", _Loop)
    monkeypatch.setattr(Engine, "open", lambda _, config, **__: opened.append(config))
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    given = {"registry": str(tmp_path), "device": "cpu", **settings}
    config = ServeConfig.model_validate(given)
    text = TextClient(InlineProcess.start)
    assembly.real_parts(config, text, Alone()).open_engine(source("r1"))
    assert opened == [EngineConfig(device="cpu", **settings)]
