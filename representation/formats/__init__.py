"""The formats of an expert's parts: one class a file, and the list of them.

A new format is a class in a file of this folder and a line in `FORMATS`, its cost in
`consolidation/compare/<kind>_cost.py`, and its product in
`serve_app/engine/experts/<kind>_linear.py`. Needs only torch; imports nothing else of ours.
"""

from representation.formats.base import SCALE_DTYPE, Colour, Format, Look, Tensors, TensorSpec
from representation.formats.dense import Dense
from representation.formats.expert import dense_expert
from representation.formats.low_rank import LowRank
from representation.formats.packing import Packed
from representation.formats.shape import ExpertShape
from representation.formats.sparse import Sparse
from representation.formats.split import Split

FORMATS: dict[str, type[Format]] = {
    one.kind: one
    for one in (
        Dense,
        Packed,
        Split,
        LowRank,
        Sparse,
    )
}
"""Every format that there is, by kind."""

DENSE = Dense()


def format_of(label: str) -> Format:
    """The format of a label. Raises `ValueError`, naming a label that is none."""
    kind, *words = label.split("-")
    found = FORMATS[kind].of_words(words) if kind in FORMATS else None
    if found is None:
        spellings = ", ".join(one.spelling for one in FORMATS.values())
        raise ValueError(f"format {label!r} is none of {spellings}")
    return found


__all__ = [
    "DENSE",
    "FORMATS",
    "SCALE_DTYPE",
    "Colour",
    "Dense",
    "ExpertShape",
    "Format",
    "Look",
    "LowRank",
    "Packed",
    "Sparse",
    "Split",
    "TensorSpec",
    "Tensors",
    "dense_expert",
    "format_of",
]
