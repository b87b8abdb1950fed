"""One forward a step, whatever models are in it; and what the engine refuses."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.engine import Engine
from serve_app.engine.experts.linear import part_linear
from serve_app.engine.loading import loader, outages
from serve_app.engine.loading.backbones import load_backbone
from serve_app.engine.memory import plan_memory
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Request, Sampling, Token
from serve_app.engine.stacks.arrivals import Arrival
from serve_app.errors import (
    DoesNotFit,
    DuplicateRequest,
    EngineError,
    LoadFailed,
    TooLong,
    UnknownModel,
    UnknownRelease,
    Unsupported,
)
from tests.engine.running import (
    GREEDY,
    ON_CPU,
    SMALL,
    Answer,
    answer,
    assert_golden,
    engine_of,
    finish,
    greedy_requests,
    prompts,
    stage,
    until_all_can_be_had,
)
from tests.support.checkpoints import tiny_config, tiny_model
from tests.support.sources import FakeBlob, MemorySource


def models_of(*seeds: int, **overrides: Any) -> dict[str, Any]:
    return {f"m{seed}": tiny_model("mixtral", seed, **overrides) for seed in seeds}


def test_a_step_is_one_forward_and_two_grouped_products_a_layer_whatever_models_are_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = {"forward": 0, "products": 0}
    forward, product = PackedModel.forward, part_linear

    def counted_forward(*args: Any) -> Any:
        calls["forward"] += 1
        return forward(*args)

    def counted_product(*args: Any, **kwargs: Any) -> Any:
        calls["products"] += 1
        return product(*args, **kwargs)

    monkeypatch.setattr(PackedModel, "forward", counted_forward)
    monkeypatch.setattr("serve_app.engine.experts.pool.part_linear", counted_product)
    models = models_of(1, 2, 3)
    engine = engine_of(MemorySource("r1", models), config=replace(ON_CPU, step_tokens=64))
    answers = answer(engine, greedy_requests(models, [5, 9], max_tokens=6))
    num_steps = engine.stats().counters.num_steps
    assert all(len(found.tokens) == 6 for found in answers.values())
    assert num_steps < 12, "six sequences of three models went one after another"
    assert calls == {"forward": num_steps, "products": num_steps * 3 * 2}
    engine.close()


def test_a_seed_gives_the_same_text_alone_and_in_a_full_batch() -> None:
    models = models_of(1, 2, 3)
    engine = engine_of(MemorySource("r1", models), kv_tokens=128)
    sampling = Sampling(temperature=1.1, top_p=0.95, top_k=200, seed=7)
    request = Request("alone", "r1", "m2", prompts([9])[0], 24, sampling)
    alone = answer(engine, [request])["alone"].tokens
    crowd = greedy_requests(models, [4, 12, 20], max_tokens=20)
    again = Request("again", "r1", "m2", request.prompt, 24, sampling)
    other = Request("other", "r1", "m2", request.prompt, 24, Sampling(seed=8))
    answers = answer(engine, [*crowd[:4], again, other, *crowd[4:]])
    assert answers["again"].tokens == alone
    assert answers["other"].tokens != alone
    engine.close()


def test_stop_tokens_end_an_answer_but_not_before_min_tokens() -> None:
    model = tiny_model("mixtral", 1)
    engine = engine_of(MemorySource("r1", {"m1": model}))
    prompt = prompts([6])[0]
    free = answer(engine, [Request("a", "r1", "m1", prompt, 12, GREEDY)])["a"].tokens
    stops = frozenset({free[3]})
    first = free.index(free[3])
    stopped = answer(engine, [Request("b", "r1", "m1", prompt, 12, GREEDY, stops)])["b"]
    assert stopped.tokens == free[: first + 1]
    assert stopped.finish == "stop"
    longer = Request("c", "r1", "m1", prompt, 12, GREEDY, stops, min_tokens=8)
    kept = answer(engine, [longer])["c"]
    assert not stops & set(kept.tokens[:8])
    assert len(kept.tokens) >= 8
    engine.close()


def test_the_seconds_of_each_stage_of_a_step_are_counted_apart() -> None:
    ticks = iter(range(10**6))
    source = MemorySource("r1", models_of(1))
    engine = engine_of(source, clock=lambda: float(next(ticks)))
    answer(engine, greedy_requests(["m1"], [5], max_tokens=4))
    counters = engine.counters
    assert counters.num_steps == 4
    assert counters.forward_seconds == 4.0, "the clock ticks once from a forward's begin to its end"
    assert counters.step_seconds == 7 * 4.0
    stages = ("indices", "sampling", "waiting", "committing", "messages")
    assert {getattr(counters, f"{stage}_seconds") for stage in stages} == {4.0}
    assert counters.planning_seconds >= 4.0
    engine.close()


def test_a_prompt_alone_can_be_scored() -> None:
    model = tiny_model("mixtral", 1)
    engine = engine_of(MemorySource("r1", {"m1": model}))
    prompt = prompts([30])[0]
    found = answer(engine, [Request("a", "r1", "m1", prompt, 0, prompt_logprobs=2)])["a"]
    assert found.prompt_logprobs is not None
    assert len(found.prompt_logprobs) == 30
    assert found.prompt_logprobs[0] is None
    assert found.tokens == [-1]
    assert found.finish == "length"
    one = answer(engine, [Request("b", "r1", "m1", prompt[:1], 2, GREEDY, prompt_logprobs=2)])
    assert one["b"].prompt_logprobs == (None,)
    engine.close()


def test_an_abort_frees_everything_at_once() -> None:
    models = models_of(1)
    engine = engine_of(MemorySource("r1", models))
    requests = greedy_requests(models, [8, 10, 12], max_tokens=30)
    for request in requests:
        engine.submit(request)
    answers: dict[str, Answer] = {}
    finish(engine, answers, until=lambda: any(len(a.tokens) > 3 for a in answers.values()))
    engine.abort(requests[0].id)
    engine.abort("nobody")
    finish(engine, answers)
    assert answers[requests[0].id].finish is None
    assert_golden(models, requests[1:], answers)
    assert engine.stats().kv_blocks_used == 0
    engine.close()


def test_bad_requests_are_refused_by_name_and_number() -> None:
    engine = engine_of(MemorySource("r1", models_of(1)), kv_tokens=64)
    prompt = prompts([20])[0]
    with pytest.raises(UnknownRelease, match="'r9' is not loaded; loaded: r1"):
        engine.submit(Request("a", "r9", "m1", prompt, 5))
    with pytest.raises(UnknownModel, match="no model 'm9'; it has: m1"):
        engine.submit(Request("a", "r1", "m9", prompt, 5))
    with pytest.raises(TooLong, match="20 prompt tokens and 300 more exceed the context of 256"):
        engine.submit(Request("a", "r1", "m1", prompt, 300))
    with pytest.raises(TooLong) as refused:
        engine.submit(Request("a", "r1", "m1", prompt, 60))
    assert (refused.value.limit, refused.value.prompt_tokens) == (64, 20)
    engine.submit(Request("a", "r1", "m1", prompt, 5))
    with pytest.raises(DuplicateRequest, match="'a'"):
        engine.submit(Request("a", "r1", "m1", prompt, 5))
    assert len(finish(engine, {})["a"].tokens) == 5
    engine.close()


def test_a_step_that_breaks_ends_its_requests_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = models_of(1, 2)
    engine = engine_of(MemorySource("r1", models))
    engine.submit(Request("broken", "r1", "m1", prompts([5])[0], 5, GREEDY))
    forward = PackedModel.forward
    monkeypatch.setattr(PackedModel, "forward", lambda *_: 1 / 0)
    answers: dict[str, Answer] = {}
    finish(engine, answers, until=lambda: "broken" in answers)
    monkeypatch.setattr(PackedModel, "forward", forward)
    assert isinstance(answers["broken"].error, EngineError)
    requests = greedy_requests(models, [5], max_tokens=5)
    assert_golden(models, requests, answer(engine, requests))
    assert engine.stats().kv_blocks_used == 0
    engine.close()


def test_memory_that_cannot_hold_one_model_is_refused_with_numbers() -> None:
    source = MemorySource("r1", models_of(1, 2))
    with pytest.raises(DoesNotFit, match="the device memory is 100,000 bytes") as refused:
        Engine.open(source, replace(ON_CPU, device_memory=100_000))
    assert refused.value.available == 100_000
    least = plan_memory(source, replace(ON_CPU, device_memory=refused.value.needed))
    assert least.num_places == 1
    assert least.total_bytes <= refused.value.needed
    with pytest.raises(DoesNotFit):
        plan_memory(source, replace(ON_CPU, device_memory=refused.value.needed - 1))


def test_backbones_get_as_many_places_as_are_allowed_and_those_of_a_next_release_too() -> None:
    source = MemorySource("r1", models_of(1, 2, 3))
    free = plan_memory(source, SMALL)
    for wanted, places in ((None, 4), (1, 1), (2, 2), (9, 9)):
        for device_memory in (None, 2 * free.total_bytes):
            config = replace(SMALL, device_memory=device_memory, num_places=wanted)
            plan = plan_memory(source, config)
            assert (plan.num_places, plan.num_backbones) == (places, 3)


def test_what_is_allocated_is_what_was_planned_at_every_budget() -> None:
    source = MemorySource("r1", models_of(1, 2, 3))
    roomy = plan_memory(source, SMALL)
    for device_memory in range(roomy.total_bytes // 4, 2 * roomy.total_bytes, 1_500_000):
        try:
            engine = Engine.open(source, replace(SMALL, device_memory=device_memory))
        except DoesNotFit:
            continue
        stats = engine.stats()
        memory = engine.memory
        assert stats.pool_bytes + 3 * 3 * 4 * 8 == memory.pool_bytes, "maps come with the release"
        assert stats.backbones_bytes == memory.backbones_bytes
        assert stats.kv_bytes == memory.kv_bytes
        assert memory.total_bytes + memory.spare_bytes == device_memory
        engine.close()


@pytest.mark.parametrize("num_places", [1, 2])
def test_a_release_with_a_backbone_that_cannot_be_read_is_not_loaded(num_places: int) -> None:
    models = models_of(1, 2)
    source, broken = (MemorySource(name, models) for name in ("r1", "r2"))
    broken.models["m2"].backbone[:] = [FakeBlob("another", 1)]
    del broken._backbones["m2"]["model.norm.weight"]
    engine = engine_of(source, num_places=num_places)
    words = "release 'r2', model 'm2': 1 tensors are missing, 'model.norm.weight' first"
    with pytest.raises(LoadFailed, match=words):
        stage(engine, broken)
    requests = greedy_requests(models, [5], max_tokens=5)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()


def test_a_load_that_fails_ends_its_models_requests_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It fails in the middle, when a step that was admitted early waits for what is to come."""
    models = models_of(1, 2)
    engine = engine_of(MemorySource("r1", models), num_places=1)

    def break_off(packed: Any, to: Any, tensors: Any, source: str, arrival: Any) -> None:
        names = list(packed.stacks.names())
        load_backbone(packed, to, tensors, source, Arrival())
        for name in names[: len(names) // 2]:
            arrival.came(name)
        while not arrival.is_awaited:
            time.sleep(0.001)
        raise OSError("it is gone")

    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(loader, "load_backbone", break_off)
    lost, kept = greedy_requests(["m2"], [5, 6], max_tokens=5)
    first = answer(engine, [lost])[lost.id]
    assert isinstance(first.error, LoadFailed)
    assert "release 'r1', model 'm2': it is gone" in str(first.error)
    assert first.tokens == []
    monkeypatch.setattr(loader, "load_backbone", load_backbone)
    until_all_can_be_had(engine)
    requests = [kept, *greedy_requests(["m1"], [5], max_tokens=5)]
    assert_golden(models, requests, answer(engine, requests))
    stats = engine.stats()
    assert (stats.kv_blocks_used, stats.counters.backbone_load_failures) == (0, 1)
    engine.close()


def test_a_step_waits_for_each_tensor_of_a_backbone_that_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = models_of(1, 2)
    engine = engine_of(MemorySource("r1", models), num_places=1)
    began: list[bool] = []

    def slowly(packed: Any, to: Any, tensors: Any, source: str, arrival: Any) -> int:
        def one_by_one() -> Any:
            for pair in tensors:
                time.sleep(0.002)
                yield pair
            began.append(arrival.is_awaited)

        return load_backbone(packed, to, one_by_one(), source, arrival)

    monkeypatch.setattr(loader, "load_backbone", slowly)
    for model in ("m1", "m2", "m1"):
        requests = greedy_requests([model], [5], max_tokens=5)
        assert_golden(models, requests, answer(engine, requests))
    assert began == [True] * 3
    engine.close()


def test_backbones_are_read_once_and_held_only_where_there_are_fewer_places() -> None:
    models = models_of(1, 2, 3)
    for num_places, num_held, num_loads in ((2, 3, 6), (3, 0, 3)):
        source = MemorySource("r1", models)
        engine = engine_of(source, num_places=num_places)
        for _ in range(2):
            for model in models:
                requests = greedy_requests([model], [5], max_tokens=3)
                assert_golden(models, requests, answer(engine, requests))
        stats = engine.stats()
        assert source.num_backbone_reads == 3
        assert stats.counters.backbone_loads == num_loads
        assert stats.host_bytes == engine.memory.host_bytes == num_held * engine.memory.place_bytes
        engine.retire("r1", lambda: None)
        engine.step()
        assert engine.stats().host_bytes == 0
        engine.close()


def test_architectures_that_do_not_fit_are_refused_by_name() -> None:
    class Source(MemorySource):
        def __init__(self, config: Any) -> None:
            super().__init__("r1", models_of(1))
            self.models["m1"].config.clear()
            self.models["m1"].config.update(config)

    dense = {"model_type": "llama"}
    with pytest.raises(Unsupported, match="LlamaForCausalLM has no experts"):
        Engine.open(Source(dense), ON_CPU)
    with pytest.raises(Unsupported, match="'no_such_type': this transformers does not know it"):
        Engine.open(Source({"model_type": "no_such_type"}), ON_CPU)
    with pytest.raises(Unsupported, match="layers of type 'indexed_attention'"):
        Engine.open(Source({"model_type": "deepseek_v32"}), ON_CPU)
    ropes = {"layer_rope_theta": [1e4, 5e4, 1e4], "intermediate_size": 24}
    with pytest.raises(Unsupported, match=r"rotary_embs.* has rope parameters that are not"):
        Engine.open(Source(tiny_config("granitemoe_swa", **ropes).to_dict()), ON_CPU)


def test_tied_and_untied_heads_take_the_bytes_they_need() -> None:
    with torch.device("meta"):
        tied = tiny_config("mixtral", tie_word_embeddings=True)
    model = tiny_model("mixtral", 1, tie_word_embeddings=tied.tie_word_embeddings)
    untied = tiny_model("mixtral", 1)
    plans = [plan_memory(MemorySource("r1", {"m1": m}), ON_CPU) for m in (model, untied)]
    assert plans[1].place_bytes - plans[0].place_bytes == 320 * 32 * 4


def test_a_request_of_four_times_the_weight_has_four_times_the_share() -> None:
    models = models_of(1)
    config = replace(SMALL, max_sequences=1)
    engine = engine_of(MemorySource("r1", models), config=config)
    for number, prompt in enumerate(prompts([4] * 10)):
        for tenant, weight in (("light", 1.0), ("heavy", 4.0)):
            name = f"{tenant}-{number}"
            engine.submit(Request(name, "r1", "m1", prompt, 4, tenant=tenant, weight=weight))
    order: list[str] = []
    while engine.has_work:
        order += [e.request for e in engine.step() if isinstance(e, Token) and e.finish]
    assert sum(name.startswith("heavy") for name in order[:10]) == 8
