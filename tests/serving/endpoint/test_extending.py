"""Models are added to a running deployment, and retired from it, while all are asked."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import openai
import pytest

from tests.chaos.ledger import Kind, Outcome, reasons
from tests.chaos.load import Load
from tests.chaos.references import PROMPTS, References
from tests.serving.endpoint.served import MODELS, Served, until
from tests.serving.family import FAMILY

pytestmark = [pytest.mark.ray, pytest.mark.slow]
COMMAND = [sys.executable, "-c", "from serve_app.cli.main import main; main()"]


@pytest.fixture
def references(served: Served) -> Iterator[References]:
    """Of the first release, to which the channel goes back in the end."""
    made = References(served.family.root, PROMPTS[::2])
    made.add(served.first, {model: model for model in MODELS})
    yield made
    _run(served, "promote", served.first, "--channel", "stable")
    served.until_serving(served.first)


def _run(served: Served, *words: str) -> str:
    """A command on the family, while it is served. -> what it says"""
    place = ("--family", FAMILY, "--registry", served.family.url)
    done = subprocess.run([*COMMAND, *words, *place], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _extended(served: Served, *words: str) -> str:
    """A release that nobody serves yet."""
    said = _run(served, "consolidate", *words, "--channel", "next", "--json")
    release: str = json.loads(said)["release"]
    return release


def _roll_out(
    served: Served, references: References, release: str, checkpoints: Mapping[str, str]
) -> None:
    references.add(release, checkpoints)
    _run(served, "promote", release, "--channel", "stable")
    served.until_serving(release)


def test_models_come_and_go_and_nobody_notices(served: Served, references: References) -> None:
    load = Load(served.address, ["acme", "zen"], MODELS, references)
    begun = time.monotonic()
    load.begin()
    try:
        more = _extended(
            served, "--extend", served.first, f"--model=new={served.family.root / 'd'}"
        )
        _roll_out(served, references, more, {"a": "a", "b": "b", "c": "c", "new": "d"})
        load.models = (*MODELS, "new")
        until(lambda: _answered(load.ledger.since(begun), "new", more), 60)

        fewer = _extended(served, "--extend", more, "--remove", "a")
        load.models = ("b", "c", "new")
        _roll_out(served, references, fewer, {"b": "b", "c": "c", "new": "d"})
        until(lambda: _answered(load.ledger.since(begun), "c", fewer), 60)
        with pytest.raises(openai.NotFoundError):
            served.openai.completions.create(model="a", prompt="hello")
    finally:
        load.close()
    outcomes = load.ledger.since(begun)
    assert {one.release for one in outcomes} == {served.first, more, fewer}
    assert not reasons(outcomes)


def _answered(outcomes: list[Outcome], model: str, release: str) -> bool:
    return any(
        one.kind is Kind.RIGHT and (one.model, one.release) == (model, release) for one in outcomes
    )
