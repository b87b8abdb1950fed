"""What loading a backbone costs: its own request, and the requests that run meanwhile.

There are fewer places than models, so that every load copies from the host. Everything is measured
in turns in one engine; each figure is a median.
"""

import statistics
import time
from dataclasses import dataclass, replace

from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.rates import host_copy_rate
from serve_app.bench.step.session import Session, running
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.source import ReleaseSource

STEPS_BESIDE = 30
"""How many steps may overlap one load and its aftermath."""
ON_CPU = EngineConfig(device="cpu")


@dataclass(frozen=True, slots=True)
class Cold:
    """prompt: tokens of each.   places: for backbones, fewer than models.   loads: how many each.

    sequences: how many run meanwhile.   steps: timed before each load, without a load.
    """

    prompt: int = 64
    places: int = 2
    loads: int = 12
    sequences: int = 4
    steps: int = 4


class _Bench:
    """An engine with too few places, and requests to one model after another."""

    def __init__(self, source: ReleaseSource, wanted: Cold, config: EngineConfig) -> None:
        self.names = sorted(source.models)
        if wanted.places >= len(self.names):
            raise ValueError(f"{wanted.places} places for {len(self.names)} models: none is cold")
        self.ended: list[float] = []
        length = wanted.prompt + 32 + wanted.loads * (wanted.steps + STEPS_BESIDE)
        own = replace(
            config,
            num_places=wanted.places,
            kv_tokens=(wanted.sequences + 2) * (length + 16),
            max_sequences=wanted.sequences + 2,
            prefix_cache=False,
        )
        self.engine = Engine.open(
            source, own, on_loaded=lambda: self.ended.append(time.perf_counter())
        )
        self.room = length - wanted.prompt
        self.session = Session(self.engine, source, step_tokens=config.step_tokens)

    def is_resident(self, model: str) -> bool:
        return model in {name for _, name in self.engine.stats().resident}

    def first_token_s(self, model: str, prompt: int) -> float:
        """Seconds from a request to its first token, on an engine that does nothing else."""
        began = time.perf_counter()
        self.session.submit([model], prompt, 1)
        while self.session.num_open:
            self.session.step()
        return time.perf_counter() - began


def cold_over_resident_ttft(
    source: ReleaseSource,
    wanted: Cold = Cold(),
    on_progress: OnProgress = lambda *_: None,
    config: EngineConfig = ON_CPU,
) -> Measured:
    """Time to the first token if the backbone must be loaded, divided by that if it is resident.

    config: the engine's, but for what `wanted` says. Its facts hold both times, and the rate of
    loads beside that of the device: bytes of a backbone each second.
    """
    bench = _Bench(source, wanted, config)
    cold, resident = [], []
    with running(bench.engine, source):
        for name in bench.names:
            bench.first_token_s(name, wanted.prompt)
        before = bench.engine.stats().counters
        for number in range(wanted.loads):
            name = bench.names[number % len(bench.names)]
            assert not bench.is_resident(name), f"{name} is to be cold"
            cold.append(bench.first_token_s(name, wanted.prompt))
            resident.append(bench.first_token_s(name, wanted.prompt))
            on_progress("first tokens", number + 1, wanted.loads)
        after = bench.engine.stats().counters
        bytes_each = (after.backbone_load_bytes - before.backbone_load_bytes) // wanted.loads
        rate = host_copy_rate(bench.engine.packed.device, bytes_each)
    seconds = (after.backbone_load_seconds - before.backbone_load_seconds) / wanted.loads
    facts = {
        "cold_s": statistics.median(cold),
        "resident_s": statistics.median(resident),
        "backbone_bytes": bytes_each,
        "load_bytes_s": bytes_each / seconds,
        "host_to_device_bytes_s": rate,
    }
    return Measured(facts["cold_s"] / facts["resident_s"], facts)


def running_tpot_during_load(
    source: ReleaseSource,
    wanted: Cold = Cold(),
    on_progress: OnProgress = lambda *_: None,
    config: EngineConfig = ON_CPU,
) -> Measured:
    """A running model's time per token while another backbone loads, divided by that without.

    Counts the steps that overlap a load; the other model's own first step comes after it.
    """
    bench = _Bench(source, wanted, config)
    alone: list[float] = []
    beside: list[float] = []
    first, *others = bench.names
    with running(bench.engine, source):
        bench.session.submit([first] * wanted.sequences, wanted.prompt, bench.room)
        bench.session.until_decoding()
        for number in range(wanted.loads):
            while bench.session.num_open > wanted.sequences:
                bench.session.step()
            bench.session.step()
            alone += [bench.session.step()[0] for _ in range(wanted.steps)]
            beside += _steps_beside_load(bench, others[number % len(others)], wanted.prompt)
            on_progress("loads during steps", number + 1, wanted.loads)
        bench.session.end()
    facts = {
        "alone_s": statistics.median(alone),
        "beside_s": statistics.median(beside),
        "num_steps_beside": len(beside),
    }
    return Measured(facts["beside_s"] / facts["alone_s"], facts)


def _steps_beside_load(bench: _Bench, model: str, prompt: int) -> list[float]:
    """Seconds of each step that overlaps the load of a model's backbone."""
    assert not bench.is_resident(model), f"{model} is to be cold"
    loads = len(bench.ended)
    bench.session.submit([model], prompt, 1)
    found = []
    while len(bench.ended) == loads:
        found.append(bench.session.step()[0])
    return found
