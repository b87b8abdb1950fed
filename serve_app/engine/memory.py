"""What the engine will allocate, before it does. Plans only: nothing is allocated here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from serve_app.engine.attention.forms import attention_needs
from serve_app.engine.device.matmul import SCRATCH_BYTES
from serve_app.engine.experts.packed_linear import WORKSPACE_BYTES
from serve_app.engine.experts.shelves import LayerShape, layer_shape
from serve_app.engine.experts.shelving import ShelfRows, shelf_rows
from serve_app.engine.loading.backbones import copy_bytes
from serve_app.engine.model.anatomy import Anatomy, config_of, study
from serve_app.engine.model.packed import Sizes, unique_tensors
from serve_app.engine.run.kept import CAPTURES_SHARE, CaptureNeeds
from serve_app.engine.source import ModelLike, ReleaseSource
from serve_app.errors import ConfigError, DoesNotFit, Unsupported

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BLOCK_SIZE = 16
"""Tokens in a KV block."""
MIN_KV_TOKENS = 512
DEFAULT_KV_BYTES = 1 << 30
KV_SHARE = 0.4
"""Of what is left after the least of everything, the part that KV may claim before backbones."""
SPARE_SHARE = 0.2
"""Of what KV could take beyond its least, the part left free for the slots of a next release."""
CUBLAS_BYTES = 64 << 20
"""What torch gives cuBLAS on recent devices: 32 MiB for the stream of steps, and for captures'."""


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


@dataclass(frozen=True, slots=True)
class _Needs:
    """Bytes of one of each thing. step: workspace, and step_per_block what it grows by.

    attention: that its kernels keep.   captured: of captures, of which there may be none.
    """

    place: int
    copy: int
    block: int
    step: int
    step_per_block: float
    attention: int
    captured: CaptureNeeds


def resolve_dtype(wanted: str, stored: str) -> torch.dtype:
    """The engine's dtype. "auto": bfloat16 for checkpoints in bfloat16, else float32.

    (float16 is exact in float32, and is not in bfloat16.)
    """
    if wanted == "auto":
        wanted = "bfloat16" if stored == "bfloat16" else "float32"
    if wanted not in DTYPES:
        raise Unsupported(f"dtype {wanted!r}: the engine computes in {' or '.join(DTYPES)}")
    return DTYPES[wanted]


def context_length(config: Mapping[str, Any]) -> int:
    """The most tokens that a sequence of the model may have."""
    fields = config_of(config).get_text_config()
    length = int(getattr(fields, "max_position_embeddings", None) or 1 << 20)
    rope = getattr(fields, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        return int(length * rope.get("factor", 1.0))
    return length


def widest(models: Mapping[str, ModelLike]) -> Mapping[str, Any]:
    """The config with the longest vocabulary (the first such, by name)."""
    return _widest([models[name].config for name in sorted(models)])


def _widest(configs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(configs, key=lambda config: config_of(config).get_text_config().vocab_size)


def backbone_key(model: ModelLike) -> str:
    """Equal for models whose backbones are the same files."""
    return "+".join(blob.digest for blob in model.backbone)


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
    needs = _needs(anatomy, shapes, torch_dtype, limits, torch.device(device))
    if host_memory is not None and host_memory < needs.copy:
        raise ConfigError(
            f"host_memory is {host_memory:,} bytes; a copy of one backbone takes {needs.copy:,}"
        )
    captures = 0
    if cuda_graphs and not on_cpu:
        captures = needs.captured.of_all(limits.max_sequences, -(-longest // BLOCK_SIZE))
    num_backbones = len({backbone_key(model) for model in source.models.values()})
    useful = -(-longest * limits.max_sequences // BLOCK_SIZE)
    least = _least_blocks(longest)
    most_places = num_backbones if num_places is None else min(num_backbones, num_places)
    if kv_tokens is not None:
        least = useful = max(1, -(-kv_tokens // BLOCK_SIZE))
    if device_memory is None:
        places = most_places
        blocks = max(least, min(useful, max(DEFAULT_KV_BYTES // needs.block, 1)))
    else:
        places, blocks, captures = _shares(
            pool, captures, needs, most_places, least, useful, device_memory
        )
    workspace = needs.step + math.ceil(needs.step_per_block * blocks)
    kv = (blocks + 1) * needs.block  # one that no sequence has: see `Sizes`
    used = pool + places * needs.place + kv + needs.attention + captures + workspace
    return MemoryPlan(
        pool_bytes=pool,
        backbones_bytes=places * needs.place,
        kv_bytes=kv,
        attention_bytes=needs.attention,
        captures_bytes=captures,
        workspace_bytes=workspace,
        spare_bytes=0 if device_memory is None else device_memory - used,
        place_bytes=needs.place,
        num_places=places,
        num_backbones=num_backbones,
        shelves=shelves,
        num_blocks=blocks,
        block_size=BLOCK_SIZE,
        dtype=str(torch_dtype).removeprefix("torch."),
        device_memory=device_memory,
        captured=needs.captured,
        copy_bytes=needs.copy,
        host_memory=host_memory,
    )


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
    anatomy = study(config_of(_widest(configs)), torch_dtype)
    shapes = layer_shapes(anatomy)
    needs = _needs(anatomy, shapes, torch_dtype, limits or Limits(), torch.device(device))
    blocks = _least_blocks(max(context_length(config) for config in configs))
    maps = sum(num_formats * shape.maps_bytes(len(configs)) for shape in shapes)
    others = len(configs) * needs.place + maps + needs.attention + needs.step
    others += needs.block + math.ceil(blocks * (needs.block + needs.step_per_block))
    if others >= device_memory:
        raise DoesNotFit(
            f"{len(configs)} backbones of {needs.place:,} bytes, the least of keys and values, "
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
    needs: _Needs,
    most_places: int,
    least: int,
    useful: int,
    device_memory: int,
) -> tuple[int, int, int]:
    """Places, KV blocks and bytes for captures within a budget.

    First the least of places and blocks, then captures, then places, then KV.
    """
    per_block = needs.block + needs.step_per_block
    fixed = pool + needs.attention + needs.step
    floor = fixed + needs.place + needs.block + math.ceil(least * per_block)
    if floor > device_memory:
        raise DoesNotFit(
            f"the release needs at least {floor:,} bytes: pool {pool:,}, one backbone "
            f"{needs.place:,}, keys and values {(least + 1) * needs.block:,}, kernels of attention "
            f"{needs.attention:,}, workspace "
            f"{needs.step + math.ceil(least * needs.step_per_block):,}; the device memory is "
            f"{device_memory:,} bytes",
            needed=floor,
            available=device_memory,
        )
    rest = device_memory - floor
    captures = min(captures, int(rest * CAPTURES_SHARE))
    rest -= captures
    wanted_kv = min((useful - least) * per_block, rest * KV_SHARE)
    places = 1 + min(most_places - 1, int((rest - wanted_kv) // needs.place))
    rest -= (places - 1) * needs.place
    more = min(useful - least, int(rest * (1 - SPARE_SHARE) // per_block))
    return places, least + more, captures


def layer_shapes(anatomy: Anatomy) -> list[LayerShape]:
    """The shapes of the experts of each MoE layer, in order. Raises: Unsupported."""
    return [layer_shape(path, experts) for path, experts in anatomy.experts.items()]


def _needs(
    anatomy: Anatomy,
    shapes: Sequence[LayerShape],
    dtype: torch.dtype,
    limits: Limits,
    device: torch.device,
) -> _Needs:
    """Whatever formats the release has: the next one may have others."""
    on_cpu = device.type == "cpu"
    sizes = [shape.numel() * kind.itemsize for shape, kind in unique_tensors(anatomy).values()]
    width = sum(shape.width for shape in anatomy.attentions.values())
    block = width * BLOCK_SIZE * dtype.itemsize
    config = anatomy.model.config.get_text_config()
    hidden = config.hidden_size
    experts = [sum(map(math.prod, shape.expert.parameters.values())) for shape in shapes]
    per_expert = max(experts) // hidden  # about three times the intermediate size
    top_k = getattr(config, "num_experts_per_tok", 0) or 2
    # A second shelf's input and output; the CPU may compute in float32.
    second = (per_expert + hidden) * (dtype.itemsize + (4 if on_cpu else 0))
    pair = (per_expert + 3 * hidden) * dtype.itemsize + second
    token = 8 * hidden * dtype.itemsize + top_k * pair + 2 * 4 * config.vocab_size
    libraries = SCRATCH_BYTES + WORKSPACE_BYTES if on_cpu else CUBLAS_BYTES
    gathered = 2 * block / len(anatomy.attentions)
    kinds = len({(s, anatomy.windows[path]) for path, s in anatomy.attentions.items()})
    kept = attention_needs(device)
    logits = config.vocab_size * dtype.itemsize
    return _Needs(
        sum(sizes),
        copy_bytes(sizes, device),
        block,
        step=limits.max_tokens * token + libraries,
        step_per_block=gathered,
        attention=kept.once + kinds * kept.kind,
        captured=CaptureNeeds(token, logits, gathered, once=kinds * kept.captured),
    )
