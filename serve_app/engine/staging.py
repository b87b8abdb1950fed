"""Room for a release beside those that are loaded: how much it takes, and making it."""

from serve_app.engine.anatomy import config_of
from serve_app.engine.memory import widest
from serve_app.engine.packed import PackedModel
from serve_app.engine.releases import Releases
from serve_app.engine.source import ReleaseSource
from serve_app.errors import DoesNotFit


def growth_bytes(
    packed: PackedModel, releases: Releases, source: ReleaseSource, *, alone: bool = False
) -> int:
    """Bytes that pool, maps and stacks must grow by to hold a release.

    Beside what is loaded; or, `alone`, once nothing else is.
    """
    bytes_needed = 0
    row_counts = releases.rows_alone(source) if alone else releases.rows_needed(source)
    layers = zip(packed.pool.values(), row_counts, strict=True)
    map_rows = releases.new_map_rows(source, alone=alone)
    for layer, rows in layers:
        more = max(0, rows - layer.num_rows)
        bytes_needed += more * layer.shape.num_bytes(packed.dtype)
        bytes_needed += map_rows * layer.maps.shape[1] * layer.maps.itemsize
    longer = _vocabulary(source) - packed.longest_vocabulary
    return bytes_needed + max(0, longer) * packed.vocabulary_bytes()


def require_room_alone(
    packed: PackedModel, releases: Releases, source: ReleaseSource, spare_bytes: int | None
) -> None:
    """Raises: DoesNotFit for a release that would not fit even if nothing else were loaded."""
    needed = growth_bytes(packed, releases, source, alone=True)
    if spare_bytes is not None and needed > spare_bytes:
        raise DoesNotFit(
            f"release {source.id!r} needs {needed:,} bytes more than is allocated, even alone; "
            f"{spare_bytes:,} are spare",
            needed=needed,
            available=spare_bytes,
        )


def make_room(
    packed: PackedModel, releases: Releases, source: ReleaseSource, spare_bytes: int | None
) -> None:
    """Grow what must grow to hold a release; nothing may be copying into the stacks meanwhile.

    spare_bytes: the most it may grow by; None where nothing limits it.
    Raises: DoesNotFit, with nothing changed.
    """
    needed = growth_bytes(packed, releases, source)
    if spare_bytes is not None and needed > spare_bytes:
        raise DoesNotFit(
            f"release {source.id!r} needs {needed:,} bytes beside what is loaded; "
            f"{spare_bytes:,} are spare",
            needed=needed,
            available=spare_bytes,
        )
    rows_needed = releases.rows_needed(source)
    for layer, ledger, rows in zip(packed.pool.values(), releases.slots, rows_needed, strict=True):
        if rows > layer.num_rows:
            layer.grow(rows)
            ledger.grow(rows)
    if _vocabulary(source) > packed.longest_vocabulary:
        packed.grow_vocabulary(_vocabulary(source))


def _vocabulary(source: ReleaseSource) -> int:
    return int(config_of(widest(source.models)).get_text_config().vocab_size)
