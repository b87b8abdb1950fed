"""What attention and captured steps keep stays within what was planned for them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from representation.architecture.attention import AttentionShape
from serve_app.engine import engine as engine_module
from serve_app.engine.attention import flashinfer as paged_flashinfer
from serve_app.engine.attention.flashinfer import FlashInfer, flashinfer_needs
from serve_app.engine.attention.forms import probe
from serve_app.engine.config import EngineConfig
from serve_app.engine.memory import expert_memory, plan_memory
from serve_app.engine.memory_plan import MemoryPlan
from serve_app.engine.run.cuda_graphs import graph_backend
from serve_app.engine.run.kept import SEGMENTS_BYTES, CaptureNeeds, Size
from serve_app.errors import DoesNotFit
from tests.engine import paged_kernels
from tests.engine.recorded import Recorder
from tests.engine.running import ON_CPU, answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

CPU = torch.device("cpu")
GIB = 1 << 30
NEEDS = CaptureNeeds(sequence=1 << 20, logits=1 << 16, block=2048.0, once=8 << 20)


@pytest.fixture
def flashinfer_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_flashinfer, "find_spec", lambda name: name)


def source_of(architecture: str = "mixtral", count: int = 2) -> MemorySource:
    return MemorySource("r1", {f"m{n}": tiny_model(architecture, n) for n in range(1, count + 1)})


def on_cuda(source: MemorySource, device_memory: int, **options: Any) -> MemoryPlan:
    return plan_memory(source, EngineConfig(device="cuda", device_memory=device_memory, **options))


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_all_that_is_kept_on_a_device_is_planned(
    architecture: str, flashinfer_is_there: None
) -> None:
    source = source_of(architecture)
    kinds = 2 if architecture == "gpt_oss" else 1  # windows in every other layer
    needs = flashinfer_needs()
    for device_memory in (GIB, 4 * GIB, 80 * GIB):
        plan = on_cuda(source, device_memory)
        assert plan.attention_bytes == needs.once + kinds * needs.kind
        assert plan.captured.once == kinds * needs.captured
        assert 0 < plan.captures_bytes <= device_memory / 10
        assert plan.total_bytes + plan.spare_bytes == device_memory
        without = on_cuda(source, device_memory, cuda_graphs=False)
        assert without.captures_bytes == 0
        assert without.attention_bytes == plan.attention_bytes
        assert without.total_bytes + without.spare_bytes == device_memory


def test_forms_that_keep_nothing_and_devices_without_graphs_reserve_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paged_flashinfer, "find_spec", lambda _: None)
    source = source_of()
    assert on_cuda(source, GIB).attention_bytes == 0
    plan = plan_memory(source, replace(ON_CPU, device_memory=GIB))
    assert (plan.attention_bytes, plan.captures_bytes) == (0, 0)
    assert graph_backend(CPU) is None


def test_what_has_no_room_beside_what_is_kept_is_refused_by_name(
    flashinfer_is_there: None,
) -> None:
    source = source_of()
    with pytest.raises(DoesNotFit, match=r"kernels of attention 2\d\d,") as no:
        on_cuda(source, 300 << 20)
    plan = on_cuda(source, no.value.needed)
    assert (plan.captures_bytes, plan.spare_bytes) == (0, 0), "captures take of what is left"
    configs = [model.config for model in source.models.values()]
    left = [
        expert_memory(
            configs, "float32", EngineConfig(device=device, device_memory=GIB), num_maps=1
        )
        for device in ("cpu", "cuda")
    ]
    assert left[0] - left[1] > plan.attention_bytes, "and what cuBLAS takes"


sizes = st.permutations(
    [(count, blocks) for count in (1, 2, 4, 8, 16) for blocks in (1, 2, 4, 8, 16, 32)]
)


@given(order=sizes)
def test_all_sizes_find_room_in_any_order(order: list[Size]) -> None:
    """As torch takes memory: what one needs while it runs serves those that need no more."""
    planned = NEEDS.of_all(16, 20)
    kept, running, largest = SEGMENTS_BYTES, 0, 0
    for count, blocks in order:
        assert kept + running + NEEDS.of_one((count, blocks), copies=False) <= planned
        kept += NEEDS.once + count * NEEDS.logits
        if count > largest:
            running += count * NEEDS.sequence
            largest = count
    assert kept + running <= planned


def test_tables_count_where_attention_copies_what_it_reads() -> None:
    plain, copied = (NEEDS.of_one((4, 64), copies=copies) for copies in (False, True))
    assert copied - plain == 4 * 64 * 2048


class Greedy(Recorder):
    """Captures take all that is reckoned for them."""

    @property
    def num_bytes(self) -> int:
        return len(self.recorded) * SEGMENTS_BYTES

    @num_bytes.setter
    def num_bytes(self, _: int) -> None:
        pass


def test_captures_stop_where_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of()
    models = {f"m{n}": tiny_model("mixtral", n) for n in (1, 2)}
    monkeypatch.setattr("serve_app.engine.model.replacing.makers", lambda _: ())
    captured = []
    for room in (0, 2, 4, 100):
        planned = room * SEGMENTS_BYTES

        def plan(*args: Any, planned: int = planned, **options: Any) -> MemoryPlan:
            found = plan_memory(*args, **options)
            return replace(found, captures_bytes=planned, device_memory=GIB)

        recorder = Greedy()
        monkeypatch.setattr(engine_module, "plan_memory", plan)
        monkeypatch.setattr(engine_module, "graph_backend", lambda _, r=recorder: r)
        engine = engine_of(source, step_tokens=256, max_sequences=16, kv_tokens=1024)
        for lengths in ([5], [5, 30], [5, 30, 70]):
            requests = greedy_requests(models, lengths, max_tokens=4)
            assert_golden(models, requests, answer(engine, requests))
        stats = engine.stats()
        assert stats.captures_bytes == recorder.num_bytes <= planned
        assert stats.allocated_bytes == engine.memory.allocated_bytes + stats.captures_bytes
        captured.append(len(recorder.recorded))
        engine.close()
    assert captured[0] == 0 < captured[1] < captured[2] < captured[3]


def test_flashinfer_says_what_it_holds() -> None:
    form = FlashInfer(paged_kernels.FlashInferWrapper, CPU)
    workspace = form.num_bytes
    assert workspace == paged_flashinfer.WORKSPACE_BYTES
    for heads in (1, 2):
        shape = AttentionShape(2, heads, 8, 8)
        form.attend(probe(shape, None, ((1, 9),), 16, torch.float32, CPU, sinks=False))
        assert form.num_bytes == workspace + heads * 4096, "the workspace is one for all plans"
