"""What dense parts cost: slots that lose nothing."""

from collections.abc import Mapping

import torch

from consolidation.compare.costs import Cost, Difference, Formats, NoOffers, PartWanted
from consolidation.compare.noise import Noise, Spread
from representation.formats import DENSE, ExpertShape, Format


class DenseCost:
    """See `Cost`. A dense part is never a residual."""

    slots: Formats = (DENSE,)
    residuals: Formats = ()

    def of_slot(self, fmt: Format, spread: Spread, noise: Noise) -> Mapping[str, float]:
        """See `Cost.of_slot`."""
        return dict.fromkeys(spread, 0.0)

    def products(self, fmt: Format, shape: ExpertShape) -> float:
        """See `Cost.products`. Measured: weights in bfloat16 take twice as long as codes."""
        return 2.0 * shape.num_weights

    def offers(self, difference: Difference) -> NoOffers:
        """See `Cost.offers`."""
        return NoOffers()

    def fit(self, fmt: Format, wanted: PartWanted) -> dict[str, torch.Tensor]:
        """See `Cost.fit`."""
        return DENSE.encode(
            wanted.weights.matrices, wanted.weights.vectors, wanted.shape, wanted.dtype
        )


COST: Cost = DenseCost()
