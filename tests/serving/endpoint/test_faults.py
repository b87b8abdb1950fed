"""The short form of `make chaos`: faults that heal in moments, while all models are asked."""

import os
from collections.abc import Iterator

import pytest

from tests.chaos.endpoint import Watched
from tests.chaos.fault import Fault, run_fault
from tests.chaos.faults import processes, requests
from tests.chaos.ground import Scene
from tests.chaos.ledger import Kind
from tests.chaos.load import Load
from tests.chaos.references import PROMPTS, References
from tests.serving.endpoint.served import MODELS, Served

pytestmark = pytest.mark.ray
FAULTS = (
    Fault("text process killed", processes.text_killed),
    Fault("engine stopped and continued", processes.engine_stopped),
    Fault("clients leave at random", requests.clients_leave),
)


@pytest.fixture(scope="module")
def scene(served: Served) -> Iterator[Scene]:
    references = References(served.family.root, PROMPTS[::2])
    references.add(served.first, {model: model for model in MODELS})
    load = Load(served.address, ["acme", "zen"] * 2, MODELS, references)
    watched = Watched(served.address, os.getpid(), "operator")
    yield Scene(endpoint=watched, load=load)
    load.close()
    watched.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_answers_are_right_and_none_is_lost_when(
    fault: Fault[Scene], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.fault.BEFORE_S", 0.3)
    monkeypatch.setattr("tests.chaos.fault.AFTER_S", 0.2)
    monkeypatch.setattr(processes, "STOPPED_S", 0.5)
    monkeypatch.setattr(requests, "NUM_LEAVING", 40)
    row = run_fault(fault, scene)
    assert row.passed, row.why
    assert row.requests[Kind.RIGHT] > 0
    assert row.touched == 0
