"""Plans what the engine will allocate. Allocates nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from representation.architecture.anatomy import Anatomy, study
from representation.architecture.config import config_of
from serve_app.engine.backbone_needs import StackNeeds, stack_needs
from serve_app.engine.config import EngineConfig
from serve_app.engine.device.device import require_device, resolve_device
from serve_app.engine.device.free_memory import free_bytes
from serve_app.engine.experts.shelving import ShelfRows, shelf_rows
from serve_app.engine.memory_plan import MemoryPlan
from serve_app.engine.model.facts import (
    anatomy_of,
    context_length,
    layer_shapes,
    resolve_dtype,
    widest_config,
)
from serve_app.engine.model.refusals import as_unsupported
from serve_app.engine.run.kept import CAPTURES_SHARE
from serve_app.engine.source import ReleaseSource
from serve_app.engine.unit_bytes import BLOCK_SIZE, UnitBytes, unit_bytes
from serve_app.errors import ConfigError, DoesNotFit

MIN_KV_TOKENS = 512
DEFAULT_KV_BYTES = 1 << 30
KV_SHARE = 0.4
"""The share of what is left after all minimums that KV may claim before backbones."""
STATE_SHARE = 0.2
"""The share of the same that rows of state may claim before backbones and KV."""
LEAST_OF_ENCODERS = 2
"""Tokens of the shortest input, and with which its decoder begins."""
SPARE_SHARE = 0.2
"""The share of what KV could take beyond its minimum that is left for a next release's slots."""


@dataclass(frozen=True, slots=True)
class _Demand:
    """What a release needs, before it is known how much there is.

    pool: bytes.   captures: the most bytes.   state_rows: the most that it could use.
    least_blocks: KV blocks without which the engine does not start; useful_blocks: the most that it
    could use.
    """

    shelves: tuple[ShelfRows, ...]
    pool: int
    unit: UnitBytes
    stacks: StackNeeds
    captures: int
    state_rows: int
    least_blocks: int
    useful_blocks: int

    @property
    def least_state_rows(self) -> int:
        """Rows of state without which the engine does not start."""
        return min(self.state_rows, 1)

    def bytes_with(self, room: "_Room", captures: int) -> int:
        """Bytes of everything but backbones."""
        return self.pool + _running_bytes(self.unit, room) + captures


@dataclass(frozen=True, slots=True)
class _Room:
    """KV blocks and rows of state."""

    blocks: int
    state_rows: int


@as_unsupported()
def plan_memory(
    source: ReleaseSource, config: EngineConfig, anatomy: Anatomy | None = None
) -> MemoryPlan:
    """How to divide a device's memory for a release.

    If memory has no limit, as on the CPU unless one is set, there is room for every backbone and
    for 1 GiB of keys and values; if the machine has not that much free, the plan is refused. The
    limit covers what is allocated here; the CUDA driver takes a few hundred MB more.

    There is one place more than backbones, for one of a next release, where its bytes are left:
    without a limit, if the machine has them free; with one, if they fit like those of the others.
    They are taken only when a next release comes, and only for tensors that no backbone has.
    anatomy: `anatomy_of` both, if it is known.
    Raises: DoesNotFit, with the numbers; Unsupported; ConfigError.
    """
    device = torch.device(resolve_device(config.device))
    device_memory = _device_memory(config, device)
    dtype = resolve_dtype(config.dtype, source.dtype)
    demand = _demand(source, config, device, dtype, anatomy or anatomy_of(source, config))
    unit, stacks = demand.unit, demand.stacks
    if device_memory is None:
        places, room, captures = _without_limit(demand, config.num_places, free_bytes(device))
    else:
        places, room, captures = _shares(demand, config.num_places, device_memory)
    backbones = stacks.num_bytes(places)
    used = demand.bytes_with(room, captures) + backbones
    return MemoryPlan(
        pool_bytes=demand.pool,
        backbones_bytes=backbones,
        kv_bytes=_kv_bytes(unit, room),
        states_bytes=_states_bytes(unit, room),
        attention_bytes=unit.attention,
        captures_bytes=captures,
        workspace_bytes=_workspace_bytes(unit, room),
        spare_bytes=0 if device_memory is None else device_memory - used,
        next_bytes=stacks.full_bytes(places) - backbones,
        place_bytes=unit.place,
        num_places=places,
        num_backbones=stacks.num_backbones,
        backbone_rows=stacks.rows(places),
        shelves=demand.shelves,
        num_blocks=room.blocks,
        input_blocks=room.blocks if unit.input_block else 0,
        block_size=BLOCK_SIZE,
        state_rows=room.state_rows,
        dtype=str(dtype).removeprefix("torch."),
        device_memory=device_memory,
        captured=unit.captured,
        copy_bytes=unit.copy,
        host_memory=config.host_memory,
    )


def _demand(
    source: ReleaseSource,
    config: EngineConfig,
    device: torch.device,
    dtype: torch.dtype,
    anatomy: Anatomy,
) -> _Demand:
    """Raises: Unsupported; ConfigError if host memory has no room for one copy, or no step for an
    input of an encoder."""
    if anatomy.has_encoder and config.step_tokens < config.max_sequences + LEAST_OF_ENCODERS:
        raise ConfigError(
            f"step_tokens is {config.step_tokens} and max_sequences {config.max_sequences}; a step "
            "with an input of an encoder must have room for a token of each sequence and "
            f"{LEAST_OF_ENCODERS} more"
        )
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
    least, useful = _least_and_useful_blocks(longest, config)
    return _Demand(
        shelves,
        pool,
        unit,
        stack_needs(anatomy, source.models.values()),
        captures,
        state_rows=min(config.max_sequences, config.step_tokens) if unit.state_row else 0,
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
    room = _Room(blocks, min(unit.state_row, 1))
    others = len(configs) * unit.place + maps + _running_bytes(unit, room)
    if others >= device_memory:
        raise DoesNotFit(
            f"{len(configs)} backbones of {unit.place:,} bytes, the least of keys, values and "
            f"state, kernels of attention and a step's workspace take {others:,} bytes; the device "
            f"memory is {device_memory:,}",
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


def _kv_bytes(unit: UnitBytes, room: _Room) -> int:
    each = unit.block + unit.input_block  # there are as many of the one as of the other
    return (room.blocks + 1) * each  # one that no sequence has: see `Sizes`


def _states_bytes(unit: UnitBytes, room: _Room) -> int:
    return (room.state_rows + 1) * unit.state_row  # the same


def _workspace_bytes(unit: UnitBytes, room: _Room) -> int:
    of_blocks = math.ceil(unit.step_per_block * room.blocks)
    return unit.step + of_blocks + unit.step_per_state * room.state_rows


def _running_bytes(unit: UnitBytes, room: _Room) -> int:
    """Bytes of everything but weights, maps and captures."""
    stored = _kv_bytes(unit, room) + _states_bytes(unit, room)
    return stored + unit.attention + _workspace_bytes(unit, room)


def _without_limit(
    demand: _Demand, num_places: int | None, free: int | None
) -> tuple[int, _Room, int]:
    """Places, room for sequences and bytes for captures. free: bytes of the machine, where it
    tells.

    Raises: DoesNotFit if they are more than is free.
    """
    unit, stacks = demand.unit, demand.stacks
    most = max(DEFAULT_KV_BYTES // (unit.block + unit.input_block), 1)
    blocks = max(demand.least_blocks, min(demand.useful_blocks, most))
    room = _Room(blocks, demand.state_rows)
    others = demand.bytes_with(room, demand.captures)
    places = num_places or stacks.num_backbones + 1
    if free is not None and num_places is None and others + stacks.full_bytes(places) > free:
        places = stacks.num_backbones
    used = others + stacks.num_bytes(places)
    if free is not None and used > free:
        raise DoesNotFit(
            f"the release needs {used:,} bytes: pool {demand.pool:,}, {places} backbones "
            f"{stacks.num_bytes(places):,}, {_words(unit, room)}; this machine has {free:,} bytes "
            "free",
            needed=used,
            available=free,
        )
    return places, room, demand.captures


def _words(unit: UnitBytes, room: _Room) -> str:
    """What running sequences take, for people."""
    state = ""
    if unit.state_row:
        state = f"state of {room.state_rows} sequences {_states_bytes(unit, room):,}, "
    return (
        f"keys and values {_kv_bytes(unit, room):,}, {state}workspace "
        f"{_workspace_bytes(unit, room):,}"
    )


def _shares(demand: _Demand, num_places: int | None, device_memory: int) -> tuple[int, _Room, int]:
    """Places, room for sequences and bytes for captures within a budget.

    Takes the minimum of places, blocks and rows of state first, then captures, then more rows of
    state, then places, then blocks.
    """
    unit, stacks = demand.unit, demand.stacks
    least, useful = demand.least_blocks, demand.useful_blocks
    rest = device_memory - _floor(demand, device_memory)
    captures = min(demand.captures, int(rest * CAPTURES_SHARE))
    rest -= captures
    state_rows = demand.least_state_rows
    if demand.state_rows:
        per_row = unit.state_row + unit.step_per_state
        state_rows += min(demand.state_rows - 1, int(rest * STATE_SHARE) // per_row)
        rest -= (state_rows - 1) * per_row
    per_block = unit.block + unit.input_block + unit.step_per_block
    wanted_kv = min((useful - least) * per_block, rest * KV_SHARE)
    most_places = num_places or stacks.num_backbones + 1
    places = stacks.most_places(most_places, unit.place + rest - wanted_kv)
    rest -= stacks.full_bytes(places) - unit.place
    more = min(useful - least, int(rest * (1 - SPARE_SHARE) // per_block))
    return places, _Room(least + more, state_rows), captures


def _floor(demand: _Demand, device_memory: int) -> int:
    """Bytes without which the engine does not start. Raises: DoesNotFit if there are fewer."""
    unit = demand.unit
    room = _Room(demand.least_blocks, demand.least_state_rows)
    floor = demand.bytes_with(room, captures=0) + unit.place
    if floor > device_memory:
        raise DoesNotFit(
            f"the release needs at least {floor:,} bytes: pool {demand.pool:,}, one backbone "
            f"{unit.place:,}, {_words(unit, room)}, kernels of attention {unit.attention:,}; the "
            f"device memory is {device_memory:,} bytes",
            needed=floor,
            available=device_memory,
        )
    return floor
