"""Backbones come onto the device in the order in which a step wants them, beside other steps."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from serve_app.engine.engine import Engine
from serve_app.engine.loading.backbones import PORTABLE, hold_backbone
from serve_app.engine.loading.loader import BackboneLoaded, BackboneToRead, Loader
from serve_app.engine.loading.placing import Placing
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.stacks.arrivals import Arrival
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import StepView
from serve_app.engine.unit_bytes import ALIGNMENT, copy_bytes
from tests.engine.running import ON_CPU, answer, engine_of, greedy_requests
from tests.support.checkpoints import ARCHITECTURES, tiny_model
from tests.support.sources import MemorySource, without_digests


def block(tensor: str) -> str:
    """A layer's norm, attention or MLP; or what is not of a layer."""
    return ".".join(tensor.split(".")[:-1][:4])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_are_copied_in_the_order_in_which_a_step_asks_for_them(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within attention or an MLP in another order, where layers that are computed as one are not
    neighbours; so what a step waits for is never behind a part that it does not come to yet.
    """
    models = {"m1": tiny_model(architecture, 1)}
    engine = engine_of(MemorySource("r1", models))
    stacks, ready = engine.packed.stacks, Stacks.ready
    copied, asked = list(stacks.names()), list[str]()

    def note(self: Stacks, name: str) -> object:
        if self is stacks:
            asked.append(self.canonical(name))
        return ready(self, name)

    monkeypatch.setattr(Stacks, "ready", note)
    answer(engine, greedy_requests(models, [5], max_tokens=1))
    assert set(asked) == set(copied)
    for position, name in enumerate(asked):
        before = set(copied[: copied.index(name)]) - set(asked[:position])
        assert {block(other) for other in before} <= {block(name)}, name
    engine.close()


class FakeCuda:
    """Streams and events that only note what they are asked for, in order; and pinned memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.pinned: dict[int, int] = {}
        self.default = FakeStream("default", self)
        self._streams = [self.default]
        self._num_made = 0
        faked = {
            "cudart": lambda: self,
            "check_error": self._check,
            "Stream": lambda _: self._new_stream(),
            "Event": lambda: FakeEvent(self),
            "default_stream": lambda _: self.default,
            "stream": self._on,
        }
        for name, fake in faked.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    @property
    def current(self) -> "FakeStream":
        return self._streams[-1]

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:  # noqa: N802
        assert flags == PORTABLE
        assert address not in self.pinned
        self.pinned[address] = num_bytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.pinned[address]
        return 0

    def _check(self, code: int) -> None:
        assert code == 0

    def _new_stream(self) -> "FakeStream":
        self._num_made += 1
        return FakeStream(f"side {self._num_made}", self)

    @contextmanager
    def _on(self, stream: "FakeStream") -> Iterator[None]:
        self._streams.append(stream)
        yield
        self._streams.pop()


class FakeStream:
    def __init__(self, name: str, cuda: FakeCuda) -> None:
        self.name = name
        self._cuda = cuda

    def wait_stream(self, other: "FakeStream") -> None:
        self._cuda.log.append((self.name, "waits for", other.name))

    def synchronize(self) -> None:
        self._cuda.log.append((self.name, "is done"))


class FakeEvent:
    """num_waits: how often a stream was made to wait for it."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.num_waits = 0

    def record(self) -> None:
        self._cuda.log.append((self._cuda.current.name, "records", self))

    def wait(self) -> None:
        self.num_waits += 1


@pytest.fixture
def packed() -> PackedModel:
    """Of three places that share two rows, and on the CPU; but it says that it is on CUDA."""
    models = {f"m{seed}": tiny_model("gpt_oss", seed) for seed in (1, 2)}
    packed = Engine.open(without_digests(MemorySource("r1", models)), ON_CPU).packed
    packed.device = torch.device("cuda")
    return packed


def wanted() -> BackboneToRead:
    return BackboneToRead("b", MemorySource("r1", {"m1": tiny_model("gpt_oss", 1)}), "m1")


def test_a_copy_for_cuda_is_one_pinned_buffer(
    packed: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch)
    held = hold_backbone(packed, wanted().read(), "m1")
    assert held.buffer is not None
    assert cuda.pinned == {held.buffer.data_ptr(): held.num_bytes}
    sizes = [packed.stacks[name][0].nbytes for name in packed.stacks.names()]
    assert held.num_bytes == copy_bytes(sizes, packed.device) >= sum(sizes)
    end = held.buffer.data_ptr()
    for name, tensor in held.tensors.items():
        assert tensor.data_ptr() % ALIGNMENT == 0
        assert tensor.data_ptr() >= end, f"{name} lies behind those before it"
        end = tensor.data_ptr() + tensor.nbytes
    assert end <= held.buffer.data_ptr() + held.num_bytes
    for name, tensor in wanted().read():
        assert torch.equal(held.tensors[packed.stacks.canonical(name)], tensor)
    del held, tensor
    gc.collect()
    assert not cuda.pinned, "memory that is given back is not left pinned"


def loaded(packed: PackedModel, cuda: FakeCuda) -> tuple[Arrival, list[FakeEvent]]:
    """A backbone copied into its row from the host; and the events, in order."""
    held = hold_backbone(packed, wanted().read(), "m1")
    arrival = Arrival()
    loader = Loader(packed, lambda: cuda.log.append(("reported",)))
    to = Placing(packed, PooledReleases(packed)).put(1, wanted().source.models["m1"])
    loader.load_backbone(wanted(), held, to, arrival, hold=False)
    loader.close()
    (report,) = loader.reports()
    assert isinstance(report, BackboneLoaded)
    assert (report.error, report.held is held) == (None, True)
    for name, tensor in held.tensors.items():
        row = to.rows[packed.stacks.stack_of(name)]
        assert torch.equal(packed.stacks[name][row], tensor)
        assert not packed.stacks[name][1 - row].any(), "the other row is left alone"
    return arrival, [entry[2] for entry in cuda.log if entry[1:2] == ("records",)]


def test_a_backbone_is_copied_on_a_stream_of_its_own(
    packed: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch)
    _, events = loaded(packed, cuda)
    first, *between, done, reported = cuda.log
    assert first == ("side 1", "waits for", "default"), "steps may have used the place until then"
    assert [entry[:2] for entry in between] == [("side 1", "records")] * len(events)
    assert len(events) == len(list(packed.stacks.names()))
    assert (done, reported) == (("side 1", "is done"), ("reported",))


def test_a_leaf_waits_for_what_it_reads_and_for_nothing_else(
    packed: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch)
    arrival, events = loaded(packed, cuda)
    event_of = dict(zip(packed.stacks.names(), events, strict=True))
    nothing = torch.empty(0, dtype=torch.int64)
    spans = Spans.of([1, 1], [0, 0], 2, Integers(torch.device("cpu")))
    norm = "model.layers.1.input_layernorm"

    def waited(awaited: tuple[Arrival, ...]) -> list[str]:
        packed.stacks.awaited = awaited
        with packed.step.running(StepView(spans, spans, nothing, nothing, nothing, nothing)):
            packed._model.get_submodule(norm)(torch.zeros(1, 2, 32))
        return [name for name, event in event_of.items() if event.num_waits]

    assert waited(()) == [], "a step of other places"
    assert waited((arrival,)) == [f"{norm}.weight"]
