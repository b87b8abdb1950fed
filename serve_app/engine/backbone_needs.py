"""How many rows the stacks of backbones need, and their bytes. Allocates nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from representation.architecture.anatomy import Anatomy
from serve_app.engine.model.stack_shapes import contents_of, stack_shapes, tied_names
from serve_app.engine.source import ModelLike
from serve_app.scheduling.ledgers.backbone_rows import distinct_contents, rows_for


@dataclass(frozen=True, slots=True)
class StackNeeds:
    """What stacks must hold. row_bytes: of each.   distinct: contents that a release has for it."""

    row_bytes: Mapping[str, int]
    distinct: Mapping[str, int]

    def rows(self, num_places: int) -> dict[str, int]:
        """Rows of each stack, so that any backbone can be in any of `num_places` places."""
        return rows_for(self.distinct, num_places)

    def num_bytes(self, num_places: int) -> int:
        """Bytes of stacks with those rows."""
        rows = self.rows(num_places)
        return sum(self.row_bytes[stack] * count for stack, count in rows.items())

    def most_places(self, limit: int, num_bytes: float) -> int:
        """How many places, up to a limit, fit into that many bytes; at least one."""
        fitting = (n for n in range(limit, 1, -1) if self.num_bytes(n) <= num_bytes)
        return next(fitting, 1)


def stack_needs(anatomy: Anatomy, models: Iterable[ModelLike]) -> StackNeeds:
    """What the backbones of a release's models need."""
    shapes, tied = stack_shapes(anatomy), tied_names(anatomy)
    contents = [contents_of(model, shapes, lambda name: tied.get(name, name)) for model in models]
    sizes = {stack: shape.row_bytes for stack, shape in shapes.items()}
    return StackNeeds(sizes, distinct_contents(contents))
