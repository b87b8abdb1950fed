"""A stock model of transformers that holds no weights but those of the layer that computes.

The model is built on the meta device. What lies before and after its decoder layers is run by the
stock forward itself, with layers that only note what they are called with, or only return what
comes out of the last one; so nothing here knows an architecture. In between, one layer at a time
is filled from `Weights`, without its experts, and emptied again; experts are read one at a time.
What goes through, and what is kept of it, is decided by `walk/side_by_side.py` and by callers.
"""

import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from consolidation.arithmetic.on_device import CPU, to_device
from consolidation.errors import Refused
from consolidation.walk.asked import Asked
from consolidation.walk.computing import compute_by_products
from consolidation.walk.experts_forward import Given, Inline, Read, Stop, computing
from consolidation.walk.filling import Filling
from consolidation.walk.weight_sources import Weights
from representation.architecture.anatomy import is_rotary
from representation.architecture.config import config_of
from representation.architecture.experts import find_experts
from representation.architecture.skeleton import meta_model, own_tensors
from representation.architecture.tracing.tracing import fresh_rotary
from representation.freed_memory import GivingBack, give_back

Keywords = Mapping[str, Any]
"""What a decoder layer is called with, beside its input."""
Seen = Callable[[int, Asked], None]
"""Told what is asked of experts, and of which layer of experts."""

READ_BYTES = 192 << 20
"""Of experts, in float32, between times when what they left is given back."""
ROWS = 1024
"""Of a tensor, compared at a time."""


class _ReachedTheLast(Exception):
    """Ends a forward at its last layer."""


class _Here(threading.local):
    """What a thread is doing with the model."""

    calls: "list[_Call] | None" = None
    leaving: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    layer: int
    hidden: Any
    keywords: Keywords


@dataclass(frozen=True, slots=True)
class Layer:
    """A decoder layer. `experts`: which of the layers with experts it is; None if it has none."""

    number: int
    path: str
    module: nn.Module
    forward: Callable[..., Any]
    experts: int | None


class StreamedModel:
    """One model, in float32. `stock` is transformers', without weights while it rests.

    passed: told of work as it is done, as `walk/course.py` counts it, by whoever walks the model.
    experts: what find_experts says, by layer of experts.
    Raises: Unservable if transformers cannot build the model.
    """

    def __init__(
        self,
        weights: Weights,
        device: torch.device = CPU,
        passed: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.device = device
        self.passed = passed
        self.stock = meta_model(config_of(weights.config), torch.float32, attention=None)
        compute_by_products(self.stock)
        self._rotaries = dict(self._fresh_rotaries())
        self.experts = tuple(find_experts(self.stock).values())
        self._weights = weights
        self._here = _Here()
        self._outside = Filling(device)
        self._beside: StreamedModel | None = None
        self._filling = threading.Lock()
        self._left = GivingBack(READ_BYTES)
        self._tied = dict(self.stock.all_tied_weights_keys)
        self.layers = self._stubbed_layers()

    def enter(self, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, tuple[Keywords, ...]]:
        """Run what lies before the layers; inside `ends`. inputs: of the stock forward.

        -> the first layer's input (B, T, H), and what each layer is called with
        Raises `Refused` if the layers are not called one after another, each on what the one
        before it returned.
        """
        calls: list[_Call] = []
        self._here.calls = calls
        try:
            with torch.no_grad():
                self.stock(**inputs)
        except _ReachedTheLast:
            pass
        finally:
            self._here.calls = None
        name = type(self.stock).__name__
        if [call.layer for call in calls] != list(range(len(self.layers))):
            raise Refused(f"{name}: its layers are not called one after another")
        hidden = calls[0].hidden
        if any(call.hidden is not hidden for call in calls):
            raise Refused(f"{name}: its layers pass on more than one tensor")
        return hidden, tuple(call.keywords for call in calls)

    def leave(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run what lies after the layers; inside `ends`. (B, T, H) -> logits (B, T, V)"""
        self._here.leaving = hidden
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        try:
            out = self.stock(input_ids=tokens, use_cache=False)
        finally:
            self._here.leaving = None
        logits: torch.Tensor = out.logits
        return logits

    @contextmanager
    def ends(self, beside: "StreamedModel | None" = None) -> Iterator[None]:
        """Modules outside the layers are filled when they are first called, until the end.

        Modules of rotary angles begin anew: some keep state from one call to the next.
        beside: a model of the same shape on the same device, whose ends are filled: where tensors
        are the same, its own are taken.
        """
        for path, rotary in self._rotaries.items():
            self.stock.set_submodule(path, deepcopy(rotary))
        self._beside = beside
        try:
            with self._outside:
                yield
        finally:
            self._beside = None

    def filled(self, *, backwards: bool = False) -> Iterator[Layer]:
        """Each layer in turn, filled until the next one is asked for."""
        order = self.layers[::-1] if backwards else self.layers
        for layer, following in zip(order, [*order[1:], None], strict=True):
            if following is not None:
                wanted = (following.path, following.experts)
                threading.Thread(target=self._weights.read_ahead, args=wanted, daemon=True).start()
            with self._filled(layer):
                yield layer
            give_back()

    def run(
        self,
        layer: Layer,
        hidden: torch.Tensor,
        call: tuple[Keywords, ...],
        at: Inline | Stop | Given,
    ) -> torch.Tensor:
        """Run a filled layer. hidden: (B, T, H)   call: from `enter`  ->  (B, T, H)

        at: what happens at its experts, if it has any.   Several threads may do so at a time.
        Raises `Refused` if it returns anything else.
        """
        with computing(at):
            out = layer.forward(hidden.to(self.device), **call[layer.number])
        if not isinstance(out, torch.Tensor) or out.shape != hidden.shape:
            raise self.refused(layer, "returns more than one tensor")
        return out

    def refused(self, layer: Layer, why: str) -> Refused:
        """The error for a layer that cannot be run."""
        return Refused(f"{type(self.stock).__name__}: {layer.path} {why}")

    def experts_module(self, number: int) -> Any:
        """The stock module of a layer of experts. It holds no weights."""
        return self.stock.get_submodule(self.experts[number].module)

    def expert_reader(self, number: int) -> Read:
        """What reads an expert of a layer of experts in float32, onto the device."""
        stacks = self.experts_module(number).named_parameters(recurse=False)
        shapes = {name: there.shape[1:] for name, there in stacks}
        num_bytes = 4 * sum(shape.numel() for shape in shapes.values())

        def read(index: int) -> dict[str, torch.Tensor]:
            self._left.count(num_bytes)
            found, wide = dict(self._weights.expert(number, index)), {}
            while found:  # what was read is dropped as it is widened
                name, tensor = found.popitem()
                if tensor.shape != shapes[name]:
                    wanted = tuple(shapes[name])
                    raise ValueError(f"{name} is {tuple(tensor.shape)} instead of {wanted}")
                wide[name] = to_device(tensor, self.device).float().contiguous()
            return wide

        return read

    def inline(self, layer: Layer, seen: Seen | None = None) -> Inline:
        """How one input goes through a layer: each expert that it needs is read when it does."""
        number = layer.experts
        if number is None:
            return Inline(lambda _: {})
        shown = None if seen is None else partial(seen, number)
        return Inline(self.expert_reader(number), shown)

    @contextmanager
    def _filled(self, layer: Layer) -> Iterator[None]:
        with Filling(self.device) as filling:
            path = layer.path
            names = set(layer.module.state_dict())
            if layer.experts is not None:
                experts = self.experts[layer.experts]
                inside = experts.module.removeprefix(f"{path}.")
                names -= {f"{inside}.{name}" for name in experts.shape.parameters}
            filling.put_all(layer.module, self._read(path, {f"{path}.{name}" for name in names}))
            yield

    def _read(self, part: str, names: set[str]) -> dict[str, torch.Tensor]:
        """Exactly these tensors of a part, by their names inside it. Raises `ValueError`."""
        found = self._weights.backbone(part)
        wrong = sorted(names ^ found.keys())
        if wrong:
            raise ValueError(f"tensors missing or unknown: {', '.join(wrong[:5])}")
        return {name.removeprefix(f"{part}."): tensor for name, tensor in found.items()}

    def _fresh_rotaries(self) -> Iterator[tuple[str, nn.Module]]:
        """What the model computes from its config alone, on the device."""
        name = type(self.stock).__name__
        for path, module in self.stock.named_modules():
            if is_rotary(module):
                rotary = fresh_rotary(name, path, type(module), self.stock.config)
                yield path, rotary.eval().to(self.device)

    def _stubbed_layers(self) -> tuple[Layer, ...]:
        """The layers, none of which runs any more when the stock model does."""
        path, layers = _decoder_layers(self.stock, self.experts[0].module)
        with_experts: dict[int, int] = {}
        for number, experts in enumerate(self.experts):
            own = re.match(rf"{re.escape(path)}\.(\d+)\.", experts.module)
            assert own is not None
            with_experts[int(own.group(1))] = number
        found = []
        for number, module in enumerate(layers):
            experts_number = with_experts.get(number)
            found.append(Layer(number, f"{path}.{number}", module, module.forward, experts_number))
            module.forward = self._stub(number, module, number == len(layers) - 1)
        table = self.stock.get_input_embeddings()
        table.forward = self._looked_up(table)
        for name, module in self.stock.named_modules():
            if not f"{name}.".startswith(f"{path}.") and any(True for _ in own_tensors(module)):
                module.register_forward_pre_hook(self._outside_hook(name))
        return tuple(found)

    def _looked_up(self, table: nn.Module) -> Callable[..., Any]:
        """Any embeddings will do for what comes after the layers: looking up would fill a table."""
        own = table.forward

        def forward(tokens: torch.Tensor) -> Any:
            leaving = self._here.leaving
            return own(tokens) if leaving is None else leaving.detach()

        return forward

    def _stub(self, number: int, module: nn.Module, is_last: bool) -> Callable[..., Any]:
        names = list(inspect.signature(module.forward).parameters)[1:]

        def forward(hidden: Any = None, *others: Any, **keywords: Any) -> Any:
            here = self._here
            if here.leaving is not None:
                return here.leaving
            assert here.calls is not None
            named = dict(zip(names, others, strict=False))
            here.calls.append(_Call(number, hidden, {**named, **keywords}))
            if is_last:
                raise _ReachedTheLast
            return hidden

        return forward

    def _shared(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor of the model beside this one, where it is filled and the same."""
        if self._beside is not None:
            path, _, leaf = name.rpartition(".")
            there: torch.Tensor = getattr(self._beside.stock.get_submodule(path), leaf)
            if not there.is_meta and _same(there, tensor):
                return there.detach()
        return tensor

    def _outside_hook(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any) -> None:
            is_looked_up = module is self.stock.get_input_embeddings()
            if is_looked_up and self._here.leaving is not None:
                return
            with self._filling:
                for name in own_tensors(module):
                    if getattr(module, name).is_meta:
                        whole = f"{path}.{name}"
                        part = self._tied.get(whole, whole)
                        (tensor,) = self._read(part, {part}).values()
                        self._outside.put(module, name, self._shared(whole, tensor))

        return hook


def _same(there: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether two have the same values, whatever their dtypes and places; a few rows at a time."""
    rows = zip(there.split(ROWS), tensor.split(ROWS), strict=True)
    return there.shape == tensor.shape and all(
        torch.equal(one, to_device(two, one.device).to(one.dtype)) for one, two in rows
    )


def _decoder_layers(model: nn.Module, experts: str) -> tuple[str, Any]:
    """The path of the list of decoder layers, and the list. experts: the path of one's."""
    match = re.match(r"(.*?)\.\d+\.", experts)
    if match is None:
        raise Refused(f"{type(model).__name__}: {experts} is in no list of layers")
    return match.group(1), model.get_submodule(match.group(1))
