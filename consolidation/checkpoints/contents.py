"""The distinct experts of a layer, by digest. Reads no weights and decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consolidation.checkpoints.scan import LayerScan


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert of one model, at a layer that the context gives."""

    model: str
    index: int


@dataclass(frozen=True, slots=True)
class User:
    """A model's use of an expert, and how much the model counts."""

    model: str
    index: int
    weight: float


@dataclass(frozen=True, slots=True)
class NeuronOrder:
    """The neuron order of `reference`, found by matching `via` with it."""

    via: Expert
    reference: Expert


@dataclass(frozen=True, slots=True)
class Contents:
    """Distinct experts of one layer, in order of first appearance, and who has them.

    `kept` maps digests to the slots of an extended release that hold the same expert.
    """

    module: str
    digests: tuple[str, ...]
    users: tuple[tuple[Expert, ...], ...]
    kept: Mapping[str, int] = field(default_factory=dict)


def contents_by_layer(
    modules: Sequence[str],
    scans: Mapping[str, Sequence[LayerScan]],
    kept: Sequence[Mapping[str, int]] | None = None,
) -> list[Contents]:
    """Distinct experts of each layer; models in the mapping's order, then by index."""
    found = []
    for layer, module in enumerate(modules):
        users: dict[str, list[Expert]] = {}
        for model, layers in scans.items():
            for index, digest in enumerate(layers[layer].digests):
                users.setdefault(digest, []).append(Expert(model, index))
        there = kept[layer] if kept is not None else {}
        found.append(Contents(module, tuple(users), tuple(tuple(u) for u in users.values()), there))
    return found
