"""What an engine has done and what it holds, as values for metrics and tests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_app.engine.backlog import Backlog, by_tenant
from serve_app.engine.counters import Counters
from serve_app.engine.loading.outages import Outage, Outages
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.model.packed import PackedModel
from serve_app.scheduling.ledgers.blocks import BlockLedger
from serve_app.scheduling.ledgers.input_blocks import InputLedger
from serve_app.scheduling.ledgers.state_rows import StateLedger
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import ModelKey


@dataclass(frozen=True, slots=True)
class Stats:
    """The state of an engine. heartbeat: the loop's clock at its last turn, in seconds.

    resident: models whose backbones are on the device, which has `num_places` for backbones.
    input_blocks: for the inputs of encoders; 0 where models have none.
    state_rows: for that many sequences; 0 where models keep no state.   attention_bytes,
    captures_bytes: what attention kernels and captured steps keep.   host_bytes: of copies of
    backbones on the host.   unavailable: models whose backbones could not be loaded.
    broken: an invariant of what is counted that does not hold, None where none is known.
    """

    heartbeat: float
    num_running: int
    num_waiting: int
    num_running_by_model: Mapping[ModelKey, int]
    num_waiting_by_model: Mapping[ModelKey, int]
    by_tenant: Mapping[str, Backlog]
    releases: tuple[str, ...]
    resident: tuple[ModelKey, ...]
    num_places: int
    kv_blocks: int
    kv_blocks_used: int
    input_blocks: int
    input_blocks_used: int
    state_rows: int
    state_rows_used: int
    num_preemptions: int
    backbone_hits: int
    backbone_misses: int
    backbone_evictions: int
    unique_experts: int
    logical_experts: int
    pool_bytes: int
    backbones_bytes: int
    kv_bytes: int
    state_bytes: int
    attention_bytes: int
    captures_bytes: int
    host_bytes: int
    unavailable: Mapping[ModelKey, Outage]
    broken: str | None
    counters: Counters

    @property
    def allocated_bytes(self) -> int:
        kept = self.attention_bytes + self.captures_bytes
        running = self.kv_bytes + self.state_bytes
        return self.pool_bytes + self.backbones_bytes + running + kept


def look(
    scheduler: Scheduler,
    blocks: BlockLedger,
    state_rows: StateLedger | None,
    inputs: InputLedger | None,
    releases: PooledReleases,
    packed: PackedModel,
    counters: Counters,
    captures_bytes: int,
    host_bytes: int,
    outages: Outages,
    broken: str | None,
    now: float,
) -> Stats:
    """The figures of an engine's parts now."""
    places = scheduler.places
    return Stats(
        heartbeat=now,
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        num_running_by_model=scheduler.num_running_by_model(),
        num_waiting_by_model=scheduler.num_waiting_by_model(),
        by_tenant=by_tenant(scheduler.sequences),
        releases=tuple(releases),
        resident=releases.models_with(set(places.resident)),
        num_places=places.num_places,
        kv_blocks=blocks.num_units,
        kv_blocks_used=blocks.num_used,
        input_blocks=0 if inputs is None else inputs.num_units,
        input_blocks_used=0 if inputs is None else inputs.num_used,
        state_rows=0 if state_rows is None else state_rows.num_units,
        state_rows_used=0 if state_rows is None else state_rows.num_used,
        num_preemptions=scheduler.num_preemptions,
        backbone_hits=scheduler.num_hits,
        backbone_misses=scheduler.num_misses,
        backbone_evictions=places.num_evictions,
        unique_experts=releases.num_unique_experts,
        logical_experts=releases.num_logical_experts,
        pool_bytes=packed.pool_bytes,
        backbones_bytes=packed.backbone_bytes,
        kv_bytes=packed.kv_bytes,
        state_bytes=packed.state_bytes,
        attention_bytes=packed.attention_bytes,
        captures_bytes=captures_bytes,
        host_bytes=host_bytes,
        unavailable={
            model: outage
            for backbone, outage in outages.all().items()
            for model in releases.models_with({backbone})
        },
        broken=broken,
        counters=replace(counters),
    )
