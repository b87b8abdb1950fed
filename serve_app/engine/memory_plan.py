"""What the engine will allocate, by purpose. `memory.py` decides how much."""

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.engine.experts.shelving import ShelfRows, num_slots
from serve_app.engine.model.replacing import Sizes
from serve_app.engine.run.kept import CaptureNeeds


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by purpose. `pool`, `backbones`, `kv` and `states` are allocated at once and stay;
    `attention` and `captures` are the most that kernels and captured steps will keep; `workspace`
    is the most that a step should need while it runs; `spare` is left free.

    next_bytes: the most by which backbones of a next release make the stacks grow, in places that
    are to spare. With a limit, it is part of `spare`.
    captured: what single captures take, to compare with the plan for all.
    place_bytes: of a whole backbone; backbone_rows: of each stack, where equal tensors are one.
    input_blocks: as many again for the inputs of encoders, part of `kv`; 0 where there are none.
    state_rows: for that many sequences; 0 where models keep no state besides keys and values.
    copy_bytes: of a backbone's copy in host memory; host_memory: the most that copies may take.
    """

    pool_bytes: int
    backbones_bytes: int
    kv_bytes: int
    states_bytes: int
    attention_bytes: int
    captures_bytes: int
    workspace_bytes: int
    spare_bytes: int
    next_bytes: int
    place_bytes: int
    num_places: int
    num_backbones: int
    backbone_rows: Mapping[str, int]
    shelves: tuple[ShelfRows, ...]
    num_blocks: int
    input_blocks: int
    block_size: int
    state_rows: int
    dtype: str
    device_memory: int | None
    captured: CaptureNeeds
    copy_bytes: int
    host_memory: int | None

    @property
    def allocated_bytes(self) -> int:
        """Bytes that are allocated at once."""
        return self.pool_bytes + self.backbones_bytes + self.kv_bytes + self.states_bytes

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
        held = min(self.num_places, self.num_backbones)
        return held * self.place_bytes - self.backbones_bytes

    @property
    def spare_places(self) -> int:
        """Places for backbones of a next release, beside those of this one."""
        return max(0, self.num_places - self.num_backbones)

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
        return tuple(map(num_slots, self.shelves))

    @property
    def kv_tokens(self) -> int:
        return self.num_blocks * self.block_size

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            self.num_places,
            self.shelves,
            self.num_blocks,
            self.block_size,
            self.backbone_rows,
            self.state_rows,
        )
