"""A device that stands in for CUDA: torch tells its tensors from those of the host, where they lie.

As with CUDA, no operation takes tensors of both, a tensor is on the card only if it was asked for
there, and gradients are computed by another thread. It is torch's own way to write a device in
Python (torch.utils.backend_registration): operations on such tensors are those of the CPU.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
CROSSING = {aten.copy_.default, aten._to_copy.default}
"""Operations that may take tensors of both."""
OF_THE_HOST = (
    "_local_scalar_dense _reshape_alias _to_copy _unsafe_view alias arange as_strided cat clone "
    "copy_ detach detach_ diagonal empty empty_like empty_strided expand exponential_ fill_ full "
    "index lift_fresh normal_ ones permute rand randn resize_ scalar_tensor select set_ slice "
    "split split_with_sizes squeeze stack t transpose unbind unfold uniform_ unsqueeze view zero_ "
    "zeros"
)
"""Operations of floats that the host may run anywhere: moving numbers, and drawing them."""
_libraries: list[torch.library.Library] = []


def card() -> torch.device:
    """The device, which must be asked for before this process first computes gradients."""
    if not _libraries:
        _setup_privateuseone_for_python_backend("card")
        library: Any = torch.library.Library("aten", "IMPL")
        for name, operation in _factories():
            library.impl(name, _on_card(operation), "PrivateUse1")
        library.impl("_copy_from", _copy_from, "PrivateUse1")  # what torch.tensor calls
        _libraries.append(library)
    return torch.device("card", 0)


class CardTensor(torch.Tensor):
    """A tensor on the card. `held` is where its numbers are."""

    held: torch.Tensor

    @staticmethod
    def of(held: torch.Tensor) -> "CardTensor":
        found: CardTensor = torch.Tensor._make_wrapper_subclass(
            CardTensor,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=card(),
        )
        found.held = held
        return found

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"on the card: {self.held}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        flat, spec = pytree.tree_flatten((args, kwargs or {}))
        for one in flat:
            on_host = isinstance(one, torch.Tensor) and not isinstance(one, CardTensor)
            if on_host and one.ndim and func not in CROSSING:
                raise RuntimeError(f"{func}: {tuple(one.shape)} on the host beside the card")
        held = [one.held if isinstance(one, CardTensor) else one for one in flat]
        plain, named = pytree.tree_unflatten(held, spec)
        if func is aten.histc.default:  # of whole numbers on CUDA alone
            plain = [plain[0].float(), *plain[1:]]
        goes_to = named.get("device")
        if goes_to is not None:
            named["device"] = "cpu"
        out = func(*plain, **named)
        if torch.Tag.inplace_view in func.tags:
            with no_dispatch():  # gives the tensor itself the new shape
                return func(*args, **(kwargs or {}))
        if goes_to is not None and torch.device(goes_to).type == "cpu":
            return out
        given = {id(one.held): one for one in flat if isinstance(one, CardTensor)}
        own = {id(one) for one in flat if isinstance(one, torch.Tensor)}

        def wrapped(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) in own:  # copied to the host
                return tensor
            return given[id(tensor)] if id(tensor) in given else CardTensor.of(tensor)

        return pytree.tree_map_only(torch.Tensor, wrapped, out)


class NothingComputedOnTheHost(TorchDispatchMode):
    """Refuses operations that compute floats on the host, but for those that a file may do there.

    files: parts of their paths.
    """

    def __init__(self, *files: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._files = files

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in OF_THE_HOST.split():
            return out
        for one in pytree.tree_leaves(out):
            is_float = isinstance(one, torch.Tensor) and one.is_cpu and one.is_floating_point()
            if is_float and one.numel() > 1 and not self._may_compute():
                raise AssertionError(f"{name} computes {tuple(one.shape)} on the host")
        return out

    def _may_compute(self) -> bool:
        frame: Any = sys._getframe(2)
        while frame is not None:
            if any(file in frame.f_code.co_filename for file in self._files):
                return True
            frame = frame.f_back
        return False


def _factories() -> Iterator[tuple[str, Any]]:
    """Operations that make a tensor on a device out of none."""
    for whole in torch._C._dispatch_get_all_op_names():
        name, _, overload = whole.removeprefix("aten::").partition(".")
        packet = getattr(aten, name, None) if whole.startswith("aten::") else None
        operation = getattr(packet, overload or "default", None)
        if operation is None:
            continue
        schema = operation._schema
        types = [str(one.type) for one in schema.arguments]
        returns = [str(one.type) for one in schema.returns]
        is_made = any(one.name == "device" for one in schema.arguments)
        if is_made and returns == ["Tensor"] and not any("Tensor" in one for one in types):
            yield whole.removeprefix("aten::"), operation


def _copy_from(source: torch.Tensor, target: torch.Tensor, _: bool = False) -> torch.Tensor:
    one, other = (t.held if isinstance(t, CardTensor) else t for t in (source, target))
    other.copy_(one)
    return target


def _on_card(operation: Any) -> Callable[..., CardTensor]:
    def make(*args: Any, **kwargs: Any) -> CardTensor:
        return CardTensor.of(operation(*args, **{**kwargs, "device": "cpu", "pin_memory": False}))

    return make
