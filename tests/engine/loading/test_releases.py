"""A new release is only more models in the same pool."""

import re
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.device import pages
from serve_app.engine.loading import loader
from serve_app.engine.loading.backbones import load_backbone
from serve_app.engine.memory import plan_memory
from serve_app.engine.request import Request
from serve_app.errors import DoesNotFit, LoadFailed, UnknownRelease
from tests.engine.running import (
    GREEDY,
    SMALL,
    Answer,
    answer,
    assert_golden,
    engine_of,
    finish,
    greedy_requests,
    prompts,
    stage,
)
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource


def family(*seeds: int, **overrides: Any) -> dict[str, Any]:
    return {f"m{seed}": tiny_model("mixtral", seed, **overrides) for seed in seeds}


def test_sequences_in_flight_finish_on_their_release_and_new_ones_take_the_next() -> None:
    old, new = family(1, 2), family(2, 3)
    engine = engine_of(MemorySource("r1", old))
    early = greedy_requests(old, [8, 15], max_tokens=30)
    for request in early:
        engine.submit(request)
    answers: dict[str, Answer] = {}
    finish(engine, answers, until=lambda: any(len(a.tokens) > 3 for a in answers.values()))

    next_source = MemorySource("r2", new)
    outcomes: list[object] = []
    engine.stage(next_source, outcomes.append)
    finish(engine, answers, until=lambda: bool(outcomes))
    assert outcomes == [None]
    assert next_source.num_slot_reads == 3 * 4, "slots that are there are not read again"
    retired: list[str] = []
    engine.retire("r1", lambda: retired.append("r1"))
    with pytest.raises(UnknownRelease, match="is being retired"):
        engine.submit(Request("late", "r1", "m1", prompts([5])[0], 5))
    late = [
        Request(f"new-{request.id}", "r2", request.model, request.prompt, 10, GREEDY)
        for request in greedy_requests(new, [6], max_tokens=10)
    ]
    for request in late:
        engine.submit(request)
    finish(engine, answers)

    assert_golden(old, early, answers)
    assert_golden(new, late, answers)
    assert retired == ["r1"]
    stats = engine.stats()
    assert stats.releases == ("r2",)
    assert stats.unique_experts == 2 * 3 * 4
    assert next_source.num_backbone_reads == 1, "an unchanged model keeps its place"
    engine.close()


def test_a_retired_releases_rows_are_used_again() -> None:
    engine = engine_of(MemorySource("r1", family(1, 2)))
    before = engine.stats().pool_bytes
    for number, seeds in enumerate([(3, 4), (5, 6), (1, 2)], start=2):
        engine.retire(f"r{number - 1}", lambda: None)
        models = family(*seeds)
        stage(engine, MemorySource(f"r{number}", models))
        requests = greedy_requests(models, [7], max_tokens=6, release=f"r{number}")
        assert_golden(models, requests, answer(engine, requests))
    assert engine.stats().pool_bytes == before
    engine.close()


def test_a_release_that_cannot_be_read_leaves_the_old_one_serving() -> None:
    models = family(1)
    engine = engine_of(MemorySource("r1", models))
    broken = MemorySource("r2", family(2))
    broken._slots[1][2] = {"gate_up_proj": torch.zeros(3)}
    with pytest.raises(LoadFailed, match="release 'r2', layer 1, slot 2: holds gate_up_proj"):
        stage(engine, broken)
    alien = MemorySource("r3", {"m": tiny_model("mixtral", 1, num_hidden_layers=2)})
    with pytest.raises(LoadFailed, match="'r3': its MoE layers are not those of the engine"):
        stage(engine, alien)
    with pytest.raises(LoadFailed, match="'r1' is loaded"):
        stage(engine, MemorySource("r1", models))
    requests = greedy_requests(models, [7], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    assert engine.stats().unique_experts == 3 * 4
    stage(engine, MemorySource("r2", family(2)))
    engine.close()


def test_a_release_that_does_not_fit_beside_is_refused_with_numbers() -> None:
    source = MemorySource("r1", family(1, 2))
    need = plan_memory(source, replace(SMALL, kv_tokens=64)).total_bytes
    engine = engine_of(source, kv_tokens=64, device_memory=need)
    assert engine.memory.spare_bytes == 0
    second = MemorySource("r2", family(1, 3))
    assert not engine.fits_beside(second)
    with pytest.raises(DoesNotFit, match="bytes beside what is loaded; 0 are spare"):
        stage(engine, second)
    engine.retire("r1", lambda: None)
    assert engine.fits_beside(second)
    stage(engine, second)
    requests = greedy_requests(family(1, 3), [7], max_tokens=6, release="r2")
    assert_golden(family(1, 3), requests, answer(engine, requests))
    assert engine.stats().allocated_bytes <= need
    engine.close()


def test_a_release_that_would_not_fit_even_alone_is_known_before_anything_is_given_up() -> None:
    source = MemorySource("r1", family(1, 2))
    need = plan_memory(source, replace(SMALL, kv_tokens=64)).total_bytes
    engine = engine_of(source, kv_tokens=64, device_memory=need)
    same_size, larger = MemorySource("r2", family(3, 4)), MemorySource("r3", family(3, 4, 5))
    assert not engine.fits_beside(same_size)
    engine.require_room_alone(same_size)
    with pytest.raises(DoesNotFit, match="even alone; 0 are spare"):
        engine.require_room_alone(larger)
    engine.close()


def test_a_longer_vocabulary_can_come_with_a_later_release() -> None:
    old, new = family(1, 2), family(3, vocab_size=401)
    engine = engine_of(MemorySource("r1", old))
    requests = greedy_requests(old, [7], max_tokens=6)
    assert_golden(old, requests, answer(engine, requests))
    stage(engine, MemorySource("r2", new))
    late = greedy_requests(new, [7], max_tokens=6, release="r2")
    assert_golden(new, late, answer(engine, late))
    again = greedy_requests(old, [9], max_tokens=6)
    assert_golden(old, again, answer(engine, again))
    engine.close()


def test_steps_go_on_while_a_release_waits_for_a_load_to_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_load = threading.Event()

    def load_later(*args: Any) -> int:
        assert args[3].endswith("'m1'") or may_load.wait(60)
        return load_backbone(*args)

    monkeypatch.setattr(loader, "load_backbone", load_later)
    models = family(1, 2, 9)
    engine = engine_of(MemorySource("r1", models), num_places=2)
    models.pop("m9")
    requests = greedy_requests(models, [6], max_tokens=40)
    for request in requests:
        engine.submit(request)
    answers: dict[str, Answer] = {}
    finish(engine, answers, until=lambda: "m1-0" in answers)
    outcomes: list[object] = []
    engine.stage(MemorySource("r2", family(3)), outcomes.append)
    before = len(answers["m1-0"].tokens)
    finish(engine, answers, until=lambda: len(answers["m1-0"].tokens) >= before + 10)
    assert outcomes == [], "the pool does not grow under a load"
    may_load.set()
    finish(engine, answers)
    assert outcomes == [None]
    assert_golden(models, requests, answers)
    late = greedy_requests(["m3"], [6], max_tokens=5, release="r2")
    assert_golden(family(3), late, answer(engine, late))
    engine.close()


class FarAway(MemorySource):
    """Gives a part only while another one is read too."""

    reads_at_once = 2

    def __init__(self, release: str, models: dict[str, Any]) -> None:
        super().__init__(release, models)
        self.together = threading.Barrier(2, timeout=30)

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        self.together.wait()
        return super().read_slot(layer, slot)


def test_parts_from_far_away_are_read_at_once_and_the_log_tells_the_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = family(1)
    with caplog.at_level("INFO", "serve_app.engine.loading.part_reads"):
        engine = engine_of(FarAway("r1", models))
    requests = greedy_requests(models, [5], max_tokens=4)
    assert_golden(models, requests, answer(engine, requests))
    [told] = caplog.messages
    assert re.fullmatch(r"release r1: (\S+ \wiB) of \1 of experts read, \S+ \wiB/s", told)
    engine.close()


class Counted(MemorySource):
    """Counts the bytes that are read, of all releases that have the same list."""

    def __init__(self, release: str, models: dict[str, Any], read: list[int]) -> None:
        super().__init__(release, models)
        self.read = read

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        self.read.append(self.layers[layer].slots[slot].bytes)
        return super().read_slot(layer, slot)

    def read_backbone(self, model: str) -> Any:
        self.read.append(sum(blob.bytes for blob in self.models[model].backbone))
        return super().read_backbone(model)


@pytest.mark.parametrize("num_places", [1, 2, 4, None])
def test_a_release_that_changes_one_model_of_four_reads_that_models_own_share(
    num_places: int | None,
) -> None:
    read: list[int] = []
    models = family(1, 2, 3, 4)
    engine = engine_of(Counted("r1", models, read), num_places=num_places)
    share = sum(read) / 4
    read.clear()
    models["m4"] = tiny_model("mixtral", 5)
    stage(engine, Counted("r2", models, read))
    assert sum(read) <= 1.05 * share
    if num_places is None:
        assert engine.stats().backbone_evictions == 0, "it has the place that is to spare"
    engine.retire("r1", lambda: None)
    requests = greedy_requests(models, [5, 7], max_tokens=4, release="r2")
    assert_golden(models, requests, answer(engine, requests))
    assert sum(read) <= 1.05 * share
    engine.close()


def test_with_a_place_to_spare_a_next_backbone_pushes_none_out_and_nothing_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "LARGE_BYTES", 1)
    read: list[int] = []
    models = family(1, 2)
    engine = engine_of(Counted("r1", models, read))
    assert engine.memory.spare_places == 1
    shelves = [shelf for layer in engine.packed.pool.values() for shelf in layer.shelves.values()]
    where = [tensor.data_ptr() for shelf in shelves for tensor in shelf.tensors.values()]
    share = sum(read) / 2
    read.clear()
    others = {**models, "m2": tiny_model("mixtral", 3)}
    stage(engine, Counted("r2", others, read))
    for held, release in ((models, "r1"), (others, "r2"), (models, "r1")):
        requests = greedy_requests(held, [5, 7], max_tokens=4, release=release)
        assert_golden(held, requests, answer(engine, requests))
    assert sum(read) <= 1.05 * share
    assert where == [tensor.data_ptr() for shelf in shelves for tensor in shelf.tensors.values()]
    engine.check()
    engine.close()
