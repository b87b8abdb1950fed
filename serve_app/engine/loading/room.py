"""Room for a release beside those that are loaded: how much it takes, and making it."""

from representation.architecture.config import config_of, vocabulary_size
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.model.facts import widest
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.source import ReleaseSource
from serve_app.errors import DoesNotFit


def growth_bytes(
    packed: PackedModel, releases: PooledReleases, source: ReleaseSource, *, alone: bool = False
) -> int:
    """Bytes that shelves, maps and stacks must grow by to hold a release.

    Beside what is loaded; or, `alone`, once nothing else is. Below zero where shelves that nothing
    needs any more take more than it.
    """
    num_models = releases.map_rows_wanted(source, alone=alone)
    wanted = releases.rows_wanted(source, alone=alone)
    more = sum(
        layer.shape.shelves_bytes(rows, num_models, packed.dtype) - layer.num_bytes
        for layer, rows in zip(packed.pool.values(), wanted, strict=True)
    )
    longer = _vocabulary(source) - packed.longest_vocabulary
    return more + max(0, longer) * packed.vocabulary_bytes()


def must_move(packed: PackedModel, releases: PooledReleases, source: ReleaseSource) -> bool:
    """Whether tensors that a load may be writing must be replaced to hold a release."""
    if _vocabulary(source) > packed.longest_vocabulary:
        return True
    there = [
        {key: shelf.num_rows for key, shelf in layer.shelves.items()}
        for layer in packed.pool.values()
    ]
    return there != releases.rows_wanted(source)


def require_room_alone(
    packed: PackedModel, releases: PooledReleases, source: ReleaseSource, spare_bytes: int | None
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
    packed: PackedModel, releases: PooledReleases, source: ReleaseSource, spare_bytes: int | None
) -> None:
    """Grow what must grow to hold a release; nothing may be copying into it meanwhile.

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
    releases.resize(releases.rows_wanted(source))
    if _vocabulary(source) > packed.longest_vocabulary:
        packed.grow_vocabulary(_vocabulary(source))


def _vocabulary(source: ReleaseSource) -> int:
    return vocabulary_size(config_of(widest(source.models)))
