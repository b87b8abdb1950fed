"""The engine's thread: calls from others, events, and its end."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from serve_app.engine import loop as loop_module
from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop, ends
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Event, Request
from serve_app.errors import EngineStopped, LoadFailed, UnknownModel, UnknownRelease
from tests.engine.running import GREEDY, ON_CPU, Answer, assert_golden, greedy_requests, prompts
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

WAIT_S = 60.0


class Asked:
    """One request's events, gathered from the loop's thread."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.ended: Future[None] = Future()
        self.first = threading.Event()

    def __call__(self, event: Event) -> None:
        self.answer.take(event)
        self.first.set()
        if ends(event):
            self.ended.set_result(None)


def open_loop(source: MemorySource, **settings: Any) -> EngineLoop:
    config = replace(ON_CPU, **settings)
    return EngineLoop(lambda wake: Engine.open(source, config, on_loaded=wake))


def test_many_threads_are_answered_at_once() -> None:
    models = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2)}
    source = MemorySource("r1", models)
    loop = open_loop(source, kv_tokens=256)
    loop.stage(source).result(WAIT_S)
    requests = greedy_requests(models, [5, 9, 14], max_tokens=8)
    asked = {request.id: Asked() for request in requests}
    threads = [
        threading.Thread(target=loop.submit, args=(request, asked[request.id]))
        for request in requests
    ]
    for thread in threads:
        thread.start()
    for one in asked.values():
        one.ended.result(WAIT_S)
    assert_golden(models, requests, {name: one.answer for name, one in asked.items()})
    assert loop.context_length("r1", "m1") == loop.longest_prompt("r1", "m1") == 256
    loop.close()


def test_refusals_come_to_the_caller_at_once() -> None:
    source = MemorySource("r1", {"m1": tiny_model("mixtral", 1)})
    loop = open_loop(source)
    request = Request("a", "r1", "m1", prompts([5])[0], 3, GREEDY)
    with pytest.raises(UnknownRelease):
        loop.submit(request, Asked())
    loop.stage(source).result(WAIT_S)
    with pytest.raises(UnknownModel):
        loop.submit(Request("a", "r1", "m2", request.prompt, 3), Asked())
    with pytest.raises(LoadFailed):
        loop.stage(source).result(WAIT_S)
    with pytest.raises(UnknownRelease):
        loop.retire("r7").result(WAIT_S)
    asked = Asked()
    loop.submit(request, asked)
    asked.ended.result(WAIT_S)
    loop.close()


def test_after_an_abort_no_event_follows_and_retiring_ends() -> None:
    source = MemorySource("r1", {"m1": tiny_model("mixtral", 1)})
    loop = open_loop(source)
    loop.stage(source).result(WAIT_S)
    asked = Asked()
    loop.submit(Request("a", "r1", "m1", prompts([5])[0], 200, GREEDY), asked)
    assert asked.first.wait(WAIT_S)
    retired = loop.retire("r1")
    assert not retired.done()
    loop.abort("a")
    retired.result(WAIT_S)
    assert asked.answer.finish is None
    with pytest.raises(UnknownRelease):
        loop.context_length("r1", "m1")  # answered in a turn after the one that freed it
    assert loop.stats().releases == ()
    loop.close()


def test_a_listener_that_breaks_loses_its_own_request_only() -> None:
    models = {"m1": tiny_model("mixtral", 1)}
    source = MemorySource("r1", models)
    loop = open_loop(source)
    loop.stage(source).result(WAIT_S)

    def broken(_: Event) -> None:
        raise RuntimeError("gone")

    loop.submit(Request("bad", "r1", "m1", prompts([5])[0], 100, GREEDY), broken)
    asked = Asked()
    (request,) = greedy_requests(models, [6], max_tokens=5)
    loop.submit(request, asked)
    asked.ended.result(WAIT_S)
    assert_golden(models, [request], {request.id: asked.answer})
    loop.close()


def test_an_idle_loop_says_once_that_its_counts_do_not_add_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop_module, "IDLE_S", 0.01)
    engines: list[Engine] = []
    source = MemorySource("r1", {"m1": tiny_model("mixtral", 1)})

    def opened(wake: Callable[[], None]) -> Engine:
        engines.append(Engine.open(source, ON_CPU, on_loaded=wake))
        return engines[0]

    loop = EngineLoop(opened)
    loop.stage(source).result(WAIT_S)
    for number, broken in enumerate((False, True)):
        if broken:
            engines[0]._blocks.take(1)  # nobody's
        asked = Asked()
        loop.submit(Request(str(number), "r1", "m1", prompts([5])[0], 3), asked)
        asked.ended.result(WAIT_S)
        time.sleep(0.1)
        assert (loop.stats().broken is not None) == broken
    assert "owned" in str(loop.stats().broken)
    assert len([record for record in caplog.records if "do not add up" in record.message]) == 1
    loop.close()


def test_a_closed_loop_says_so() -> None:
    source = MemorySource("r1", {"m1": tiny_model("mixtral", 1)})
    loop = open_loop(source)
    loop.close()
    with pytest.raises(EngineStopped):
        loop.submit(Request("a", "r1", "m1", prompts([5])[0], 3), Asked())


def test_requests_of_a_broken_step_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource("r1", {"m1": tiny_model("mixtral", 1)})
    loop = open_loop(source)
    loop.stage(source).result(WAIT_S)
    monkeypatch.setattr(PackedModel, "forward", lambda *_: 1 / 0)
    asked = Asked()
    loop.submit(Request("a", "r1", "m1", prompts([5])[0], 3), asked)
    asked.ended.result(WAIT_S)
    assert "division by zero" in str(asked.answer.error)
    loop.close()


def test_when_the_loop_dies_nobody_is_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource("r1", {"m1": tiny_model("mixtral", 1)})
    loop = open_loop(source)
    loop.stage(source).result(WAIT_S)
    asked = Asked()
    loop.submit(Request("a", "r1", "m1", prompts([5])[0], 200, GREEDY), asked)
    retired = loop.retire("r1")
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(Engine, "step", lambda _: 1 / 0)
    asked.ended.result(WAIT_S)
    assert isinstance(asked.answer.error, EngineStopped)
    with pytest.raises(EngineStopped, match="division by zero"):
        retired.result(WAIT_S)
    with pytest.raises(EngineStopped, match="division by zero"):
        loop.stage(source).result(WAIT_S)
    loop.close()
