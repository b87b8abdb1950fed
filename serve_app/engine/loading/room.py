"""Room for a release next to the loaded ones: how much it needs, and making it."""

from serve_app.engine.device.free_memory import free_bytes
from serve_app.engine.loading.placing import Placing
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.memory_plan import MemoryPlan
from serve_app.engine.model.facts import vocabulary, widest
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.source import ReleaseSource
from serve_app.errors import DoesNotFit


class Room:
    """Shelves, maps and stacks as they are, and how much they may grow."""

    def __init__(
        self,
        packed: PackedModel,
        releases: PooledReleases,
        placing: Placing,
        memory: MemoryPlan,
    ) -> None:
        self._packed = packed
        self._releases = releases
        self._placing = placing
        self._memory = memory

    def fits_beside(self, source: ReleaseSource) -> bool:
        """Whether there is room for a release next to what is loaded."""
        spare = self._spare_bytes()
        return spare is None or self._growth_bytes(source) <= spare

    def require_alone(self, source: ReleaseSource) -> None:
        """Raises: DoesNotFit for a release that would not fit even if nothing else were loaded."""
        spare = self._spare_bytes()
        needed = self._growth_bytes(source, alone=True)
        if spare is not None and needed > spare:
            raise DoesNotFit(
                f"release {source.id!r} needs {needed:,} bytes more than is allocated, even alone; "
                f"{spare:,} are spare",
                needed=needed,
                available=spare,
            )

    def must_move(self, source: ReleaseSource) -> bool:
        """Whether a release needs tensors replaced that a load may be writing."""
        if _vocabulary(source) > self._packed.longest_vocabulary:
            return True
        there = [
            {key: shelf.num_rows for key, shelf in layer.shelves.items()}
            for layer in self._packed.pool.values()
        ]
        return self._placing.must_grow(source) or there != self._releases.rows_wanted(source)

    def make(self, source: ReleaseSource) -> None:
        """Grow what must grow for a release. Nothing may be copying into it meanwhile.

        Raises: DoesNotFit, with nothing changed.
        """
        spare = self._spare_bytes()
        needed = self._growth_bytes(source)
        if spare is not None and needed > spare:
            raise DoesNotFit(
                f"release {source.id!r} needs {needed:,} bytes beside what is loaded; "
                f"{spare:,} are spare",
                needed=needed,
                available=spare,
            )
        self._releases.resize(self._releases.rows_wanted(source))
        self._placing.grow(source)
        if _vocabulary(source) > self._packed.longest_vocabulary:
            self._packed.grow_vocabulary(_vocabulary(source))

    def check(self) -> None:
        """Assert that stacks have the rows that are counted."""
        self._placing.check()

    def _growth_bytes(self, source: ReleaseSource, *, alone: bool = False) -> int:
        """Bytes by which shelves, maps and stacks must grow for a release.

        Together with what is loaded, or `alone`, if nothing else is. Negative if shelves that
        nothing needs any more take more than the release.
        """
        packed = self._packed
        num_models = self._releases.map_rows_wanted(source, alone=alone)
        wanted = self._releases.rows_wanted(source, alone=alone)
        more = sum(
            layer.shape.shelves_bytes(rows, num_models, packed.dtype) - layer.num_bytes
            for layer, rows in zip(packed.pool.values(), wanted, strict=True)
        )
        rows = self._placing.rows_wanted(source, alone=alone)
        stacks = packed.backbone_bytes_with(rows, _vocabulary(source))
        return more + stacks - packed.backbone_bytes

    def _spare_bytes(self) -> int | None:
        """Bytes that may still be allocated; None if nothing is known of a limit."""
        packed = self._packed
        if self._memory.device_memory is None:
            return free_bytes(packed.device)
        running = packed.kv_bytes + packed.state_bytes
        now = packed.pool_bytes + packed.backbone_bytes + running
        return self._memory.allocated_bytes + self._memory.spare_bytes - now


def _vocabulary(source: ReleaseSource) -> int:
    return vocabulary(widest(source.models))
