"""Copies backbones to the host and into places. Decides neither which nor when."""

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from serve_app.engine.model.packed import PackedModel
from serve_app.engine.stacks.arrivals import Arrival
from serve_app.engine.unit_bytes import pinned_bytes
from serve_app.errors import BadRelease

Tensors = Iterable[tuple[str, torch.Tensor]]
"""A backbone's tensors with the names of its checkpoint."""

PIECE_BYTES = 1 << 20
"""On the CPU, a copy may rest after this many bytes."""
SHARE_A_THREAD = 0.025
"""The share of time that a copy on the CPU takes per thread of the steps, while steps run that do
not wait for it. A step waits for the last of its threads, so disturbing one delays all."""
PORTABLE = 1
"""`cudaHostRegisterPortable`: pinned for every context."""


@dataclass(frozen=True, slots=True)
class HostBackbone:
    """A backbone's verified tensors in host memory, by stack, in the order of the forward.

    buffer: the pinned memory that holds them, if they go to a CUDA device; otherwise each has its
    own.
    """

    tensors: Mapping[str, torch.Tensor]
    buffer: torch.Tensor | None

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes."""
        if self.buffer is not None:
            return self.buffer.nbytes
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a backbone goes. rows: one of each stack.   contents: what each must hold."""

    place: int
    rows: Mapping[str, int]
    contents: Mapping[str, str]


def hold_backbone(packed: PackedModel, tensors: Tensors, source: str) -> HostBackbone:
    """Read a backbone into host memory, in the engine's dtype. `source` names it in errors.

    Raises: BadRelease if tensors are missing, unknown or have the wrong shape.
    """
    buffer: torch.Tensor | None = None
    rooms: dict[str, torch.Tensor] = {}
    if packed.device.type == "cuda":
        buffer, rooms = _pinned_rooms(packed)
    found = {}
    for name, tensor in _checked(packed, tensors, source):
        if buffer is None:
            dtype = packed.stacks[name].dtype
            found[name] = tensor.to("cpu", dtype).contiguous()
        else:
            found[name] = rooms[name][: len(tensor)] if tensor.dim() else rooms[name]
            found[name].copy_(tensor)
    return HostBackbone({name: found[name] for name in packed.stacks.names()}, buffer)


def check_backbone(packed: PackedModel, tensors: Tensors, source: str) -> None:
    """Read a backbone and keep nothing. Raises: BadRelease like `hold_backbone`."""
    for _ in _checked(packed, tensors, source):
        pass


def load_backbone(
    packed: PackedModel,
    to: Destination,
    tensors: Tensors,
    source: str,
    arrival: Arrival,
) -> int:
    """Fill one row of each stack, tensor by tensor, and note each in `arrival`. -> bytes copied

    A row that already holds its content is not touched. On CUDA the copies are queued on the
    current stream. A tensor over the vocabulary may be shorter than its stack; the rest of its row
    is zeroed. Called by one thread, for one backbone after another.
    Raises: BadRelease like `hold_backbone`; then the rows must not be used.
    """
    stacks, rows, contents = packed.stacks, to.rows, to.contents
    due = {stack for stack, row in rows.items() if not stacks.holds(stack, row, contents[stack])}
    for stack in due:
        stacks.note(stack, rows[stack], None)
    for name in stacks.names():
        if stacks.stack_of(name) not in due:
            arrival.came(name)
    num_bytes = 0

    def may_rest() -> bool:
        return packed.step.is_running and not arrival.is_awaited

    for name, tensor in _checked(packed, tensors, source):
        stack = stacks.stack_of(name)
        if stack not in due:
            continue
        room = stacks[name][rows[stack]]
        num_bytes += room.nbytes
        if room.shape != tensor.shape:
            room[len(tensor) :].zero_()
            room = room[: len(tensor)]
        event = None
        if packed.device.type == "cuda":
            room.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        else:
            _copy_in_pieces(room, tensor.to(room.dtype).contiguous(), may_rest)
        arrival.came(name, event)
    for stack in due:
        stacks.note(stack, rows[stack], contents[stack])
    return num_bytes


def _checked(packed: PackedModel, tensors: Tensors, source: str) -> Tensors:
    """The tensors by the names of their stacks. Raises: BadRelease."""
    missing = set(packed.stacks.names())
    over_vocabulary = {packed.stacks.canonical(name) for name in packed.vocabulary_names}
    for given, tensor in tensors:
        try:
            room = packed.stacks[given][0]
        except KeyError:
            raise BadRelease(f"{source}: the architecture has no tensor {given!r}") from None
        name = packed.stacks.canonical(given)
        fits = tensor.shape == room.shape
        if not fits and name in over_vocabulary and tensor.shape[1:] == room.shape[1:]:
            fits = tensor.shape[0] < room.shape[0]
        if not fits:
            was, shape = tuple(tensor.shape), tuple(room.shape)
            raise BadRelease(f"{source}: {given} is {was}, not {shape}")
        missing.discard(name)
        yield name, tensor.detach()
    if missing:
        raise BadRelease(f"{source}: {len(missing)} tensors are missing, {min(missing)!r} first")


def _copy_in_pieces(room: torch.Tensor, tensor: torch.Tensor, may_rest: Callable[[], bool]) -> None:
    """Copy on this thread only, resting between pieces while others need the cores.

    Does not use `Tensor.copy_`, which would add its own threads to those of the steps.
    """
    into = room.reshape(-1).view(torch.uint8).numpy()
    data = tensor.reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(data), PIECE_BYTES):
        began = time.perf_counter()
        piece = slice(start, start + PIECE_BYTES)
        np.copyto(into[piece], data[piece])
        if may_rest():
            share = min(1.0, SHARE_A_THREAD * torch.get_num_threads())
            time.sleep((time.perf_counter() - began) * (1 / share - 1))


def _pinned_rooms(packed: PackedModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One pinned buffer for a backbone, with room for each tensor in its stack's shape.

    Registered rather than allocated as pinned memory, which comes in powers of two.
    """
    shapes = {name: packed.stacks[name][0] for name in packed.stacks.names()}
    sizes = {name: pinned_bytes(t.nbytes) for name, t in shapes.items()}
    buffer = torch.empty(sum(sizes.values()), dtype=torch.uint8)
    runtime, address = torch.cuda.cudart(), buffer.data_ptr()
    torch.cuda.check_error(runtime.cudaHostRegister(address, buffer.nbytes, PORTABLE))
    weakref.finalize(buffer, runtime.cudaHostUnregister, address)
    rooms, start = {}, 0
    for name, shape in shapes.items():
        part = buffer[start : start + shape.nbytes]
        rooms[name] = part.view(shape.dtype).view(shape.shape)
        start += sizes[name]
    return buffer, rooms
