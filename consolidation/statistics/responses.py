"""What divergence an error of some cost causes, fitted to measurements. Pure: runs no model."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Response:
    """The divergence that an error of some cost causes: linear * cost + root * cost ** 0.5.

    To second order the divergence is the cost itself. But where a router is undecided, an error
    may tip it to another expert: the larger the error, the more often, while what one such switch
    changes does not grow with the error.
    """

    linear: float = 1.0
    root: float = 0.0

    def __call__(self, cost: float) -> float:
        return self.linear * cost + self.root * math.sqrt(max(0.0, cost))


def responses(probes: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Response]:
    """Each model's response, from its (cost, divergence) of a fine and a coarse rounding.

    How often routers tip is a property of the family, so models share the median of their roots:
    a few windows show too few such switches to tell one model's own.
    """
    own = [_root(*found) for found in probes.values()]
    root = statistics.median(own) if own else 0.0
    return {model: _through(found[-1], root) for model, found in probes.items()}


def _root(fine: tuple[float, float], coarse: tuple[float, float]) -> float:
    """The root of the response that gives both measurements; 0 where they do not tell it."""
    (cost, found), (other_cost, other) = fine, coarse
    if not (0 < cost < other_cost and found > 0 and other > 0):
        return 0.0
    small, large = math.sqrt(cost), math.sqrt(other_cost)
    linear = (other / large - found / small) / (large - small)
    return max(0.0, found / small - max(0.0, linear) * small)


def _through(coarse: tuple[float, float], root: float) -> Response:
    """The response with this root that gives the divergence of the coarse rounding, or more."""
    cost, found = coarse
    if not (cost > 0 and found > 0):
        return Response(1.0, root)
    return Response(max(0.0, (found - root * math.sqrt(cost)) / cost), root)
