"""The tensors of all backbones on the device, stacked by place. Computes nothing with them."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from representation.architecture.anatomy import Anatomy
from serve_app.engine.device.pages import zeros
from serve_app.engine.model.arrivals import Arrival

Kinds = Mapping[str, tuple[torch.Size, torch.dtype]]


class Stacks:
    """Tensors of all backbone places, by the name that a checkpoint gives them.

    Each is (S, *shape), S places. Tied tensors are one stack under several names.
    awaited: what is on its way to places of the running step.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], aliases: dict[str, str]) -> None:
        self._tensors = tensors
        self._aliases = aliases
        self.awaited: tuple[Arrival, ...] = ()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[self.canonical(name)]

    def ready(self, name: str) -> torch.Tensor:
        """A stack to compute with: what the running step reads of it has arrived."""
        for arrival in self.awaited:
            arrival.wait(self.canonical(name))
        return self[name]

    def canonical(self, name: str) -> str:
        """The one name of a tied stack."""
        return self._aliases.get(name, name)

    def names(self) -> Iterable[str]:
        """Names of the stacks, each once."""
        return self._tensors.keys()

    def replace(self, name: str, tensor: torch.Tensor) -> None:
        """Put another tensor in a stack's stead (a larger vocabulary, say)."""
        self._tensors[self.canonical(name)] = tensor

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors.values())


def tied_names(anatomy: Anatomy) -> dict[str, str]:
    """Names of tensors that are another one's, and whose they are."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in anatomy.model.state_dict(keep_vars=True).items():
        if name in anatomy.tensors and first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def unique_tensors(anatomy: Anatomy) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every backbone tensor, tied ones once."""
    tied = tied_names(anatomy)
    return {name: value for name, value in anatomy.tensors.items() if name not in tied}


def allocate_stacks(
    anatomy: Anatomy, num_places: int, device: torch.device
) -> tuple[Stacks, dict[tuple[str, ...], dict[str, torch.Tensor]]]:
    """Zeroed stacks for every backbone tensor; tied ones once.

    With them what those of sibling layers are parts of, by the paths of the layers.
    """
    tied = tied_names(anatomy)
    joined: dict[str, torch.Tensor] = {}
    wholes = {}
    for paths in anatomy.siblings:
        if alike(paths, anatomy.tensors, tied) and len({anatomy.units[p] for p in paths}) == 1:
            parts, wholes[paths] = side_by_side(paths, anatomy.tensors, num_places, device)
            joined |= parts
    tensors = {
        name: joined[name]
        if name in joined
        else zeros((num_places, *shape), dtype=dtype, device=device)
        for name, (shape, dtype) in unique_tensors(anatomy).items()
    }
    return Stacks(tensors, tied), wholes


def alike(paths: Sequence[str], tensors: Kinds, tied: Mapping[str, str]) -> bool:
    """Whether the weights of linear layers can lie side by side.

    tensors: shape and dtype of each, by name   tied: names that are another tensor's
    """
    names = [f"{path}.weight" for path in paths]
    if any(name not in tensors or name in tied or name in tied.values() for name in names):
        return False
    kinds = {(tensors[name][0][1], tensors[name][1]) for name in names}
    return len(kinds) == 1 and len({f"{path}.bias" in tensors for path in paths}) == 1


def side_by_side(
    paths: Sequence[str], tensors: Kinds, num_places: int, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Zeroed stacks for the layers' tensors: by their names, and as a whole by "weight", "bias".

    Each stack, (S, O, …), is a part of the whole, (S, sum of O, …).
    """
    parts: dict[str, torch.Tensor] = {}
    wholes: dict[str, torch.Tensor] = {}
    for own in ("weight", "bias"):
        names = [f"{path}.{own}" for path in paths if f"{path}.{own}" in tensors]
        if not names:
            continue
        sizes = [tensors[name][0][0] for name in names]
        (_, *others), dtype = tensors[names[0]]
        whole = zeros((num_places, sum(sizes), *others), dtype=dtype, device=device)
        parts |= dict(zip(names, whole.split(sizes, dim=1), strict=True))
        wholes[own] = whole
    return parts, wholes
