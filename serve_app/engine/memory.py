"""Plans what the engine will allocate. Allocates nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from representation.architecture.anatomy import study
from representation.architecture.config import config_of
from serve_app.engine.backbone_needs import StackNeeds, stack_needs
from serve_app.engine.config import EngineConfig
from serve_app.engine.device.device import require_device, resolve_device
from serve_app.engine.device.free_memory import free_bytes
from serve_app.engine.experts.shelving import ShelfRows, shelf_rows
from serve_app.engine.model.facts import (
    backbone_key,
    context_length,
    layer_shapes,
    resolve_dtype,
    widest,
    widest_config,
)
from serve_app.engine.model.refusals import as_unsupported
from serve_app.engine.model.replacing import Sizes
from serve_app.engine.run.kept import CAPTURES_SHARE, CaptureNeeds
from serve_app.engine.source import ReleaseSource
from serve_app.engine.unit_bytes import BLOCK_SIZE, UnitBytes, unit_bytes
from serve_app.errors import ConfigError, DoesNotFit

MIN_KV_TOKENS = 512
DEFAULT_KV_BYTES = 1 << 30
KV_SHARE = 0.4
"""The share of what is left after all minimums that KV may claim before backbones."""
SPARE_SHARE = 0.2
"""The share of what KV could take beyond its minimum that is left for a next release's slots."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by purpose. `pool`, `backbones` and `kv` are allocated at once and stay; `attention`
    and `captures` are the most that kernels and captured steps will keep; `workspace` is the most
    that a step should need while it runs; `spare` is left free.

    captured: what single captures take, to compare with the plan for all.
    place_bytes: of a whole backbone; backbone_rows: of each stack, where equal tensors are one.
    copy_bytes: of a backbone's copy in host memory; host_memory: the most that copies may take.
    """

    pool_bytes: int
    backbones_bytes: int
    kv_bytes: int
    attention_bytes: int
    captures_bytes: int
    workspace_bytes: int
    spare_bytes: int
    place_bytes: int
    num_places: int
    num_backbones: int
    backbone_rows: Mapping[str, int]
    shelves: tuple[ShelfRows, ...]
    num_blocks: int
    block_size: int
    dtype: str
    device_memory: int | None
    captured: CaptureNeeds
    copy_bytes: int
    host_memory: int | None

    @property
    def allocated_bytes(self) -> int:
        """Bytes that are allocated at once."""
        return self.pool_bytes + self.backbones_bytes + self.kv_bytes

    @property
    def kept_bytes(self) -> int | None:
        """The most that attention and captured steps may keep; None if there is no limit."""
        if self.device_memory is None:
            return None
        return self.attention_bytes + self.captures_bytes

    @property
    def total_bytes(self) -> int:
        return self.allocated_bytes + (self.kept_bytes or 0) + self.workspace_bytes

    @property
    def shared_bytes(self) -> int:
        """Bytes saved by holding tensors once that several backbones share."""
        return self.num_places * self.place_bytes - self.backbones_bytes

    @property
    def num_copies(self) -> int:
        """The most backbones with a copy in host memory, if there are fewer places."""
        if self.num_places >= self.num_backbones:
            return 0
        if self.host_memory is None:
            return self.num_backbones
        return min(self.num_backbones, self.host_memory // self.copy_bytes)

    @property
    def host_bytes(self) -> int:
        """The most host memory that copies of backbones take."""
        return self.num_copies * self.copy_bytes

    @property
    def num_slots(self) -> tuple[int, ...]:
        """Slots in each layer's pool."""
        return tuple(
            sum(count for key, count in rows.items() if not key.residual) for rows in self.shelves
        )

    @property
    def kv_tokens(self) -> int:
        return self.num_blocks * self.block_size

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            self.num_places, self.shelves, self.num_blocks, self.block_size, self.backbone_rows
        )


@dataclass(frozen=True, slots=True)
class _Demand:
    """What a release needs, before it is known how much there is.

    pool: bytes.   captures: the most bytes.   least_blocks: KV blocks without which the engine does
    not start; useful_blocks: the most that it could use.
    """

    shelves: tuple[ShelfRows, ...]
    pool: int
    unit: UnitBytes
    stacks: StackNeeds
    captures: int
    num_backbones: int
    most_places: int
    least_blocks: int
    useful_blocks: int


@as_unsupported()
def plan_memory(source: ReleaseSource, config: EngineConfig) -> MemoryPlan:
    """How to divide a device's memory for a release.

    If memory has no limit, as on the CPU unless one is set, there is room for every backbone and
    for 1 GiB of keys and values; if the machine has not that much free, the plan is refused. The
    limit covers what is allocated here; the CUDA driver takes a few hundred MB more.
    Raises: DoesNotFit, with the numbers; Unsupported; ConfigError.
    """
    device = torch.device(resolve_device(config.device))
    device_memory = _device_memory(config, device)
    dtype = resolve_dtype(config.dtype, source.dtype)
    demand = _demand(source, config, device, dtype)
    unit, stacks = demand.unit, demand.stacks
    places, blocks, captures = _shares(demand, device_memory)
    workspace = unit.step + math.ceil(unit.step_per_block * blocks)
    kv = (blocks + 1) * unit.block  # one that no sequence has: see `Sizes`
    backbones = stacks.num_bytes(places)
    used = demand.pool + backbones + kv + unit.attention + captures + workspace
    if device_memory is None:
        free = free_bytes(device)
        if free is not None and used > free:
            raise DoesNotFit(
                f"the release needs {used:,} bytes: pool {demand.pool:,}, {places} backbones "
                f"{backbones:,}, keys and values {kv:,}, workspace {workspace:,}; this machine has "
                f"{free:,} bytes free",
                needed=used,
                available=free,
            )
    return MemoryPlan(
        pool_bytes=demand.pool,
        backbones_bytes=backbones,
        kv_bytes=kv,
        attention_bytes=unit.attention,
        captures_bytes=captures,
        workspace_bytes=workspace,
        spare_bytes=0 if device_memory is None else device_memory - used,
        place_bytes=unit.place,
        num_places=places,
        num_backbones=demand.num_backbones,
        backbone_rows=stacks.rows(places),
        shelves=demand.shelves,
        num_blocks=blocks,
        block_size=BLOCK_SIZE,
        dtype=str(dtype).removeprefix("torch."),
        device_memory=device_memory,
        captured=unit.captured,
        copy_bytes=unit.copy,
        host_memory=config.host_memory,
    )


def _demand(
    source: ReleaseSource, config: EngineConfig, device: torch.device, dtype: torch.dtype
) -> _Demand:
    """Raises: Unsupported; ConfigError if host memory has no room for one copy."""
    anatomy = study(config_of(widest(source.models)), dtype)
    longest = max(context_length(model.config) for model in source.models.values())
    shapes = layer_shapes(anatomy)
    shelves = tuple(shelf_rows(layer) for layer in source.layers)
    pool = sum(
        shape.shelves_bytes(rows, len(source.models), dtype)
        for shape, rows in zip(shapes, shelves, strict=True)
    )
    unit = unit_bytes(anatomy, shapes, dtype, config.step_tokens, device)
    _require_room_for_a_copy(config.host_memory, unit.copy)
    captures = 0
    if config.cuda_graphs and device.type != "cpu":
        captures = unit.captured.of_all(config.max_sequences, -(-longest // BLOCK_SIZE))
    num_backbones = len({backbone_key(model) for model in source.models.values()})
    least, useful = _least_and_useful_blocks(longest, config)
    return _Demand(
        shelves,
        pool,
        unit,
        stack_needs(anatomy, source.models.values()),
        captures,
        num_backbones,
        most_places=config.num_places or num_backbones,
        least_blocks=least,
        useful_blocks=useful,
    )


def _require_room_for_a_copy(host_memory: int | None, copy_bytes: int) -> None:
    """Raises: ConfigError if the host may not hold even one backbone's copy."""
    if host_memory is not None and host_memory < copy_bytes:
        raise ConfigError(
            f"host_memory is {host_memory:,} bytes; a copy of one backbone takes {copy_bytes:,}"
        )


def _device_memory(config: EngineConfig, device: torch.device) -> int | None:
    """Bytes that the engine may take; None for no limit. Raises: ConfigError without the device."""
    if config.device_memory is not None or device.type == "cpu":
        return config.device_memory
    require_device(config.device)
    return int(torch.cuda.mem_get_info(device)[0] * 0.9)


@as_unsupported()
def expert_memory(
    configs: Sequence[Mapping[str, Any]],
    stored: str,
    config: EngineConfig,
    *,
    num_maps: int,
) -> int:
    """Bytes that are left on the device for the parts of experts.

    That is after every model's backbone, the minimum of keys and values, what attention kernels
    keep, the workspace of a step and maps.
    configs: of all models.   stored: the dtype in which they are stored.   num_maps: how many
    a layer may have: one for each format of slots and of residuals, two where it replaces weights.
    Raises: DoesNotFit if nothing is left; Unsupported; ConfigError if memory has no limit.
    """
    device = torch.device(resolve_device(config.device))
    device_memory = _device_memory(config, device)
    if device_memory is None:
        raise ConfigError("device_memory is not given, and the CPU's has no limit of its own")
    dtype = resolve_dtype(config.dtype, stored)
    anatomy = study(config_of(widest_config(configs)), dtype)
    shapes = layer_shapes(anatomy)
    unit = unit_bytes(anatomy, shapes, dtype, config.step_tokens, device)
    blocks = _least_blocks(max(context_length(each) for each in configs))
    maps = sum(num_maps * shape.maps_bytes(len(configs)) for shape in shapes)
    others = len(configs) * unit.place + maps + unit.attention + unit.step
    others += unit.block + math.ceil(blocks * (unit.block + unit.step_per_block))
    if others >= device_memory:
        raise DoesNotFit(
            f"{len(configs)} backbones of {unit.place:,} bytes, the least of keys and values, "
            f"kernels of attention and a step's workspace take {others:,} bytes; the device memory "
            f"is {device_memory:,}",
            needed=others + 1,
            available=device_memory,
        )
    return device_memory - others


def _least_blocks(longest: int) -> int:
    """KV blocks without which the engine does not start. longest: context, in tokens."""
    return -(-min(longest, MIN_KV_TOKENS) // BLOCK_SIZE)


def _least_and_useful_blocks(longest: int, config: EngineConfig) -> tuple[int, int]:
    """See `_Demand`. longest: context, in tokens."""
    if config.kv_tokens is not None:
        blocks = -(-config.kv_tokens // BLOCK_SIZE)
        return blocks, blocks
    return _least_blocks(longest), -(-longest * config.max_sequences // BLOCK_SIZE)


def _shares(demand: _Demand, device_memory: int | None) -> tuple[int, int, int]:
    """Places, KV blocks and bytes for captures within a budget; None: no limit.

    Takes the minimum of places and blocks first, then captures, then places, then KV.
    """
    unit, stacks = demand.unit, demand.stacks
    least, useful = demand.least_blocks, demand.useful_blocks
    if device_memory is None:
        blocks = max(least, min(useful, max(DEFAULT_KV_BYTES // unit.block, 1)))
        return demand.most_places, blocks, demand.captures
    rest = device_memory - _floor(demand, device_memory)
    captures = min(demand.captures, int(rest * CAPTURES_SHARE))
    rest -= captures
    per_block = unit.block + unit.step_per_block
    wanted_kv = min((useful - least) * per_block, rest * KV_SHARE)
    places = stacks.most_places(demand.most_places, unit.place + rest - wanted_kv)
    rest -= stacks.num_bytes(places) - unit.place
    more = min(useful - least, int(rest * (1 - SPARE_SHARE) // per_block))
    return places, least + more, captures


def _floor(demand: _Demand, device_memory: int) -> int:
    """Bytes without which the engine does not start. Raises: DoesNotFit if there are fewer."""
    unit, least = demand.unit, demand.least_blocks
    kv, workspace = (least + 1) * unit.block, unit.step + math.ceil(least * unit.step_per_block)
    floor = demand.pool + unit.place + kv + unit.attention + workspace
    if floor > device_memory:
        raise DoesNotFit(
            f"the release needs at least {floor:,} bytes: pool {demand.pool:,}, one backbone "
            f"{unit.place:,}, keys and values {kv:,}, kernels of attention {unit.attention:,}, "
            f"workspace {workspace:,}; the device memory is {device_memory:,} bytes",
            needed=floor,
            available=device_memory,
        )
    return floor
