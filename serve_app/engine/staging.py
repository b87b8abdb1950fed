"""Room for a release beside those that are loaded: how much it takes, and making it."""

from serve_app.engine.anatomy import config_of
from serve_app.engine.memory import widest
from serve_app.engine.packed import PackedModel
from serve_app.engine.releases import Releases
from serve_app.engine.source import ReleaseSource
from serve_app.errors import DoesNotFit


def growth_bytes(packed: PackedModel, releases: Releases, source: ReleaseSource) -> int:
    """Bytes that pool, maps and stacks must grow by to hold a release beside what is loaded."""
    bytes_needed = 0
    layers = zip(packed.pool.values(), releases.rows_needed(source), strict=True)
    for layer, rows in layers:
        more = max(0, rows - layer.num_rows)
        bytes_needed += more * layer.shape.num_bytes(packed.dtype)
        bytes_needed += releases.new_map_rows(source) * layer.maps.shape[1] * layer.maps.itemsize
    longer = _vocabulary(source) - packed.longest_vocabulary
    return bytes_needed + max(0, longer) * packed.vocabulary_bytes()


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
