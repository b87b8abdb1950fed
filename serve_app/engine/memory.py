"""What the engine will allocate, before it does. Plans only: nothing is allocated here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from representation.architecture.anatomy import study
from representation.architecture.config import config_of
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
"""Of what is left after the least of everything, the part that KV may claim before backbones."""
SPARE_SHARE = 0.2
"""Of what KV could take beyond its least, the part left free for the slots of a next release."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be in one step, and at once.

    max_tokens: of a step.   max_sequences: running at once.   max_model_wait_s: longest that a
    model without a place waits for one to be cleared while others are served.
    """

    max_tokens: int = 512
    max_sequences: int = 64
    max_model_wait_s: float = 5.0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by purpose. `pool`, `backbones` and `kv` are allocated at once and stay; `attention`
    and `captures` are the most that kernels and captured steps come to keep; `workspace` is the
    most that a step is expected to need while it runs; `spare` is left free.

    captured: what single captures take, to be held against what is planned for all.
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
        """What is allocated at once."""
        return self.pool_bytes + self.backbones_bytes + self.kv_bytes

    @property
    def kept_bytes(self) -> int | None:
        """The most that attention and captured steps may keep; None where nothing limits it."""
        if self.device_memory is None:
            return None
        return self.attention_bytes + self.captures_bytes

    @property
    def total_bytes(self) -> int:
        return self.allocated_bytes + (self.kept_bytes or 0) + self.workspace_bytes

    @property
    def num_copies(self) -> int:
        """Backbones that host memory holds copies of, where there are fewer places; at most."""
        if self.num_places >= self.num_backbones:
            return 0
        if self.host_memory is None:
            return self.num_backbones
        return min(self.num_backbones, self.host_memory // self.copy_bytes)

    @property
    def host_bytes(self) -> int:
        """Host memory for copies of backbones, at most."""
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
        return Sizes(self.num_places, self.shelves, self.num_blocks, self.block_size)


@as_unsupported()
def plan_memory(
    source: ReleaseSource,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    device_memory: int | None = None,
    kv_tokens: int | None = None,
    num_places: int | None = None,
    limits: Limits | None = None,
    cuda_graphs: bool = True,
    host_memory: int | None = None,
) -> MemoryPlan:
    """How a device's memory will be spent on a release.

    Without `device_memory`: on CUDA nine tenths of what is free now; on the CPU room for every
    backbone and for 1 GiB of keys and values. `kv_tokens` fixes the KV store's size; `num_places`
    is the most places that backbones get, however much memory there is. `cuda_graphs` reserves
    room for captured steps where there are any. What is bounded is what is allocated here: the
    CUDA driver takes some hundred MB beside it. `host_memory` bounds copies of backbones on the
    host; None: there is one of each where there are fewer places.
    Raises: DoesNotFit, with the numbers; Unsupported; ConfigError.
    """
    limits = limits or Limits()
    if num_places is not None and num_places < 1:
        raise ConfigError(f"num_places is {num_places}; serving takes at least 1 place")
    on_cpu = torch.device(device).type == "cpu"
    if device_memory is None and not on_cpu:
        device_memory = int(torch.cuda.mem_get_info(device)[0] * 0.9)
    torch_dtype = resolve_dtype(dtype, source.dtype)
    config = widest(source.models)
    anatomy = study(config_of(config), torch_dtype)
    longest = max(context_length(model.config) for model in source.models.values())
    shapes = layer_shapes(anatomy)
    shelves = tuple(shelf_rows(layer) for layer in source.layers)
    pool = sum(
        shape.shelves_bytes(rows, len(source.models), torch_dtype)
        for shape, rows in zip(shapes, shelves, strict=True)
    )
    unit = unit_bytes(anatomy, shapes, torch_dtype, limits.max_tokens, torch.device(device))
    if host_memory is not None and host_memory < unit.copy:
        raise ConfigError(
            f"host_memory is {host_memory:,} bytes; a copy of one backbone takes {unit.copy:,}"
        )
    captures = 0
    if cuda_graphs and not on_cpu:
        captures = unit.captured.of_all(limits.max_sequences, -(-longest // BLOCK_SIZE))
    num_backbones = len({backbone_key(model) for model in source.models.values()})
    useful = -(-longest * limits.max_sequences // BLOCK_SIZE)
    least = _least_blocks(longest)
    most_places = num_backbones if num_places is None else min(num_backbones, num_places)
    if kv_tokens is not None:
        least = useful = max(1, -(-kv_tokens // BLOCK_SIZE))
    if device_memory is None:
        places = most_places
        blocks = max(least, min(useful, max(DEFAULT_KV_BYTES // unit.block, 1)))
    else:
        places, blocks, captures = _shares(
            pool, captures, unit, most_places, least, useful, device_memory
        )
    workspace = unit.step + math.ceil(unit.step_per_block * blocks)
    kv = (blocks + 1) * unit.block  # one that no sequence has: see `Sizes`
    used = pool + places * unit.place + kv + unit.attention + captures + workspace
    return MemoryPlan(
        pool_bytes=pool,
        backbones_bytes=places * unit.place,
        kv_bytes=kv,
        attention_bytes=unit.attention,
        captures_bytes=captures,
        workspace_bytes=workspace,
        spare_bytes=0 if device_memory is None else device_memory - used,
        place_bytes=unit.place,
        num_places=places,
        num_backbones=num_backbones,
        shelves=shelves,
        num_blocks=blocks,
        block_size=BLOCK_SIZE,
        dtype=str(torch_dtype).removeprefix("torch."),
        device_memory=device_memory,
        captured=unit.captured,
        copy_bytes=unit.copy,
        host_memory=host_memory,
    )


@as_unsupported()
def expert_memory(
    configs: Sequence[Mapping[str, Any]],
    stored: str,
    device_memory: int,
    *,
    num_formats: int,
    device: str = "cpu",
    dtype: str = "auto",
    limits: Limits | None = None,
) -> int:
    """Bytes that are left for the parts of experts, as the device holds them.

    After every model's backbone, the least of keys and values, what kernels of attention keep,
    the workspace of a step and maps.
    configs: of all models.   stored: the dtype that they are stored in.   num_formats: that the
    parts of a layer may have, slots and residuals counted apart; each has maps of its own.
    Raises: DoesNotFit where nothing is left; Unsupported.
    """
    torch_dtype = resolve_dtype(dtype, stored)
    anatomy = study(config_of(widest_config(configs)), torch_dtype)
    shapes = layer_shapes(anatomy)
    limits = limits or Limits()
    unit = unit_bytes(anatomy, shapes, torch_dtype, limits.max_tokens, torch.device(device))
    blocks = _least_blocks(max(context_length(config) for config in configs))
    maps = sum(num_formats * shape.maps_bytes(len(configs)) for shape in shapes)
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


def _shares(
    pool: int,
    captures: int,
    unit: UnitBytes,
    most_places: int,
    least: int,
    useful: int,
    device_memory: int,
) -> tuple[int, int, int]:
    """Places, KV blocks and bytes for captures within a budget.

    First the least of places and blocks, then captures, then places, then KV.
    """
    per_block = unit.block + unit.step_per_block
    fixed = pool + unit.attention + unit.step
    floor = fixed + unit.place + unit.block + math.ceil(least * per_block)
    if floor > device_memory:
        raise DoesNotFit(
            f"the release needs at least {floor:,} bytes: pool {pool:,}, one backbone "
            f"{unit.place:,}, keys and values {(least + 1) * unit.block:,}, kernels of attention "
            f"{unit.attention:,}, workspace "
            f"{unit.step + math.ceil(least * unit.step_per_block):,}; the device memory is "
            f"{device_memory:,} bytes",
            needed=floor,
            available=device_memory,
        )
    rest = device_memory - floor
    captures = min(captures, int(rest * CAPTURES_SHARE))
    rest -= captures
    wanted_kv = min((useful - least) * per_block, rest * KV_SHARE)
    places = 1 + min(most_places - 1, int((rest - wanted_kv) // unit.place))
    rest -= (places - 1) * unit.place
    more = min(useful - least, int(rest * (1 - SPARE_SHARE) // per_block))
    return places, least + more, captures
