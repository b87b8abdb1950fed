"""What Python does not look through for garbage while requests are answered."""

import asyncio
import gc
import os
import pickle
import subprocess
import sys

import pytest

from serve_app.config import ServeConfig
from serve_app.protocol.errors import ProtocolError
from serve_app.serving import engine_deployment, ingress_deployment
from serve_app.text.choice_text import ChoiceText
from serve_app.text.errors import NoChatTemplate
from serve_app.text.tokenizer import Tokenizer
from tests.serving.fakes import world
from tests.serving.running import client_of, replica_of, serves
from tests.support.checkpoints import byte_tokenizer
from tests.text.process.choices import wanted

_TEXT = """
import gc, os
from serve_app.text.process.text_child import _server
from serve_app.text.template_limits import TemplateLimits
_server(TemplateLimits())
print(gc.get_freeze_count(), len(gc.get_objects()), flush=True)
os._exit(0)
"""


class _Handle:
    """Of an engine that nobody asks."""

    def options(self, **_: object) -> "_Handle":
        return self


class _Deployed(ingress_deployment.IngressDeployment):
    """Without what Serve awaits when a replica stops."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each time that all there is was set aside."""
    found: list[None] = []
    monkeypatch.setattr(gc, "freeze", lambda: found.append(None))
    return found


def test_an_engine_sets_aside_what_it_has_imported(frozen: list[None]) -> None:
    engine_deployment._import_engine()
    assert len(frozen) == 1


def test_an_ingress_sets_aside_what_it_has_imported(
    frozen: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress_deployment, "listen_where_ray_does", lambda: None)
    monkeypatch.setattr(ingress_deployment, "log_as", lambda *_: None)

    _Deployed(_Handle(), ServeConfig(family="f").model_dump())
    assert len(frozen) == 1


def test_a_text_process_sets_aside_what_it_has_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TEXT],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    aside, left = map(int, done.stdout.split())
    assert aside > 50_000
    assert left < 1000


def test_log_probabilities_are_not_looked_through() -> None:
    text = ChoiceText(0, [70], Tokenizer(byte_tokenizer()), wanted(logprobs=2))
    [token] = text.add(71, (-1.0, ((71, -1.0), (230, -2.0))), None)["tokens"]
    read = pickle.loads(pickle.dumps(token["top"]))
    assert [each["bytes"] for each in read] == [b"e", b"\x85"]
    assert not any(map(gc.is_tracked, read))


def test_what_a_refused_request_held_is_let_go_of_without_looking_for_garbage() -> None:
    def held() -> list[BaseException]:
        return [one for one in gc.get_objects() if type(one) in (NoChatTemplate, ProtocolError)]

    async def run() -> list[BaseException]:
        made = world("a", answers={"a": [10]})
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            gc.disable()
            before = held()  # what other tests have left
            chat = {"model": "a", "messages": [{"role": "user", "content": "x"}]}
            assert (await client.post("/v1/chat/completions", json=chat)).status_code == 400
            return [one for one in held() if all(one is not other for other in before)]

    try:
        assert asyncio.run(run()) == []
    finally:
        gc.enable()
