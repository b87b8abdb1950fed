"""What split parts cost: as packed ones. They are how 8 bits are stored."""

from consolidation.compare.costs import Cost
from consolidation.compare.noise import RESIDUAL_BITS, SLOT_BITS, SPLIT_BITS
from consolidation.compare.packed_cost import PackedCost
from representation.formats import Split

COST: Cost = PackedCost(
    Split,
    [bits for bits in SLOT_BITS if bits in SPLIT_BITS],
    [bits for bits in RESIDUAL_BITS if bits in SPLIT_BITS],
)
