"""Models that an operator loads, unloads and pins in a running engine."""

import pytest

from serve_app.engine.engine import Engine
from serve_app.errors import InUse, TooManyPinned, UnknownModel
from tests.engine.running import answer, assert_golden, engine_of, finish, greedy_requests
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

MODELS = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2, 3)}


def _resident(engine: Engine) -> set[str]:
    places = engine.residents.look().places
    return {name for p in places if p.state == "resident" for _, name in p.models}


def test_models_are_loaded_pinned_and_unloaded_while_others_are_asked() -> None:
    engine = engine_of(MemorySource("r1", MODELS), num_places=2)
    residents = engine.residents
    residents.load(("r1", "m1"))
    finish(engine, {}, until=lambda: _resident(engine) == {"m1"})
    place = next(p for p in residents.look().places if p.models)
    assert place.num_bytes > 0
    residents.pin({("r1", "m1")})
    requests = greedy_requests(MODELS, [5, 9], max_tokens=6)
    assert_golden(MODELS, requests, answer(engine, requests))
    assert "m1" in _resident(engine), "the pinned one stayed"
    look = residents.look()
    assert look.num_switches >= 1
    assert [p.is_pinned for p in look.places if ("r1", "m1") in p.models] == [True]
    with pytest.raises(InUse, match="'m1' is pinned"):
        residents.unload(("r1", "m1"))
    residents.pin(set())
    residents.unload(("r1", "m1"))
    residents.unload(("r1", "m1"))  # nothing is there any more
    assert "m1" not in _resident(engine)
    engine.check()
    assert_golden(MODELS, requests, answer(engine, requests))
    engine.close()


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    engine = engine_of(MemorySource("r1", MODELS), num_places=2)
    residents = engine.residents
    with pytest.raises(TooManyPinned, match="m1, m2: 2 backbones cannot be pinned in 2 places"):
        residents.pin({("r1", "m1"), ("r1", "m2")})
    with pytest.raises(UnknownModel, match="'zz'"):
        residents.load(("r1", "zz"))
    [request] = greedy_requests(["m1"], [5], max_tokens=50)
    engine.submit(request)
    finish(engine, {}, until=lambda: engine.stats().num_running == 1)
    with pytest.raises(InUse, match="'m1' is in use: 1 sequences run on it and 0 wait"):
        residents.unload(("r1", "m1"))
    engine.abort(request.id)
    assert not any(place.is_pinned for place in residents.look().places)
    engine.close()
