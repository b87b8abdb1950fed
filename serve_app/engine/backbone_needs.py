"""How many rows the stacks of backbones need, and their bytes. Allocates nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from representation.architecture.anatomy import Anatomy
from serve_app.engine.source import ModelLike, backbone_key
from serve_app.engine.stacks.stack_shapes import contents_of, stack_shapes, tied_names
from serve_app.scheduling.ledgers.backbone_rows import distinct_contents, rows_for


@dataclass(frozen=True, slots=True)
class StackNeeds:
    """What stacks must hold. row_bytes: of each.   distinct: contents that a release has for it.

    num_backbones: of that release.
    """

    row_bytes: Mapping[str, int]
    distinct: Mapping[str, int]
    num_backbones: int

    def rows(self, num_places: int) -> dict[str, int]:
        """Rows of each stack, so that any backbone can be in any of `num_places` places."""
        return rows_for(self.distinct, num_places)

    def num_bytes(self, num_places: int) -> int:
        """Bytes of stacks with those rows."""
        return self._bytes_of(self.rows(num_places))

    def full_bytes(self, num_places: int) -> int:
        """The same, once backbones of a next release have filled the places that are to spare.

        At most: if they have no tensor in common with any other.
        """
        more = max(0, num_places - self.num_backbones)
        distinct = {stack: count + more for stack, count in self.distinct.items()}
        return self._bytes_of(rows_for(distinct, num_places))

    def most_places(self, limit: int, num_bytes: float) -> int:
        """How many places, up to a limit, fit into that many bytes when full; at least one."""
        fitting = (n for n in range(limit, 1, -1) if self.full_bytes(n) <= num_bytes)
        return next(fitting, 1)

    def _bytes_of(self, rows: Mapping[str, int]) -> int:
        return sum(self.row_bytes[stack] * count for stack, count in rows.items())


def stack_needs(anatomy: Anatomy, models: Collection[ModelLike]) -> StackNeeds:
    """What the backbones of a release's models need."""
    shapes, tied = stack_shapes(anatomy), tied_names(anatomy)
    contents = [contents_of(model, shapes, lambda name: tied.get(name, name)) for model in models]
    sizes = {stack: shape.row_bytes for stack, shape in shapes.items()}
    num_backbones = len({backbone_key(model) for model in models})
    return StackNeeds(sizes, distinct_contents(contents), num_backbones)
