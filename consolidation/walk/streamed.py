"""A stock model of transformers that holds no weights but those of the layer that computes.

The model is built on the meta device. What lies before and after its lists of layers is run by the
stock forward itself, with layers that only note what they are called with, or only return what
comes out of the last one; so nothing here knows an architecture. In between, one layer at a time
is filled from `Weights`, without its experts, and emptied again; experts are read one at a time.
What goes through, and what is kept of it, is decided by `walk/side_by_side.py` and by callers.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import MoEModelOutput

from consolidation.arithmetic.on_device import CPU, to_device
from consolidation.errors import Refused
from consolidation.walk.asked import Asked
from consolidation.walk.computing import compute_by_products
from consolidation.walk.experts_forward import Given, Inline, Read, Stop, computing
from consolidation.walk.filling import Filling
from consolidation.walk.layers import ENCODED, Entered, Keywords, Layer, layer_lists
from consolidation.walk.position_tables import PositionTables
from consolidation.walk.weight_sources import Weights
from representation.architecture.anatomy import is_rotary
from representation.architecture.config import config_of
from representation.architecture.experts import find_experts
from representation.architecture.skeleton import meta_model, own_tensors
from representation.architecture.tracing.tracing import fresh_rotary
from representation.encoder_decoder.both_stacks import is_encoder_decoder
from representation.freed_memory import GivingBack, give_back

Seen = Callable[[int, Asked], None]
"""Told what is asked of experts, and of which layer of experts."""

READ_BYTES = 192 << 20
"""Of experts, in float32, between times when what they left is given back."""
ROWS = 1024
"""Of a tensor, compared at a time."""


class _ReachedTheLast(Exception):
    """Ends a forward at its last layer."""


class _Here(threading.local):
    """What a thread is doing with the model.

    outs: what layers of a list return, by list; those of the list after these note their calls.
    """

    calls: "list[_Call] | None" = None
    outs: Sequence[torch.Tensor | None] = ()


@dataclass(frozen=True, slots=True)
class _Call:
    layer: int
    hidden: Any
    keywords: Keywords


class StreamedModel:
    """One model, in float32. `stock` is transformers', without weights while it rests.

    passed: told of work as it is done, as `walk/course.py` counts it, by whoever walks the model.
    experts: what find_experts says, by layer of experts.   lists, layers: the lists of layers, and
    the layers of all of them.
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
        self.lists = layer_lists(self.stock, [experts.module for experts in self.experts])
        self.layers = tuple(layer for layers in self.lists for layer in layers)
        self._tables = PositionTables(self.lists, self._layer_tensors)
        self._replace_forwards()

    def enter(
        self, inputs: Mapping[str, Any], in_list: int = 0, out: torch.Tensor | None = None
    ) -> Entered:
        """Run what lies before a list of layers; inside `ends`. inputs: of the stock forward.

        out: what came out of the list before it; gradients go back to it if it takes any.
        Raises `Refused` if the layers are not called one after another, each on what the one
        before it returned.
        """
        calls: list[_Call] = []
        self._here.calls, self._here.outs = calls, [out] * in_list
        try:
            with torch.set_grad_enabled(out is not None and out.requires_grad):
                self.stock(**inputs)
        except _ReachedTheLast:
            pass
        finally:
            self._here.calls, self._here.outs = None, ()
        name = type(self.stock).__name__
        if [call.layer for call in calls] != [layer.number for layer in self.lists[in_list]]:
            raise Refused(f"{name}: its layers are not called one after another")
        hidden = calls[0].hidden
        if any(call.hidden is not hidden for call in calls):
            raise Refused(f"{name}: its layers pass on more than one tensor")
        keywords = [dict(call.keywords) for call in calls]
        encoded = [own.pop(ENCODED) for own in keywords] if in_list else [None]
        return Entered(hidden, tuple(keywords), encoded[0])

    def leave(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run what lies after the layers; inside `ends`. (B, T, H) -> logits (B, T, V)"""
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        inputs: dict[str, Any] = {"input_ids": tokens}
        if is_encoder_decoder(self.stock):
            inputs = {"encoder_outputs": MoEModelOutput(hidden), "decoder_input_ids": tokens}
        self._here.outs = [hidden] * len(self.lists)
        try:
            out = self.stock(**inputs, use_cache=False)
        finally:
            self._here.outs = ()
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

    def filled(self, in_list: int, *, backwards: bool = False) -> Iterator[Layer]:
        """Each layer of a list in turn, filled until the next one is asked for."""
        order = self.lists[in_list][:: -1 if backwards else 1]
        for layer, following in zip(order, [*order[1:], None], strict=True):
            if following is not None:
                wanted = (following.path, following.experts)
                threading.Thread(target=self._weights.read_ahead, args=wanted, daemon=True).start()
            with self._filled(layer):
                yield layer
            give_back()

    def run(
        self, layer: Layer, hidden: torch.Tensor, call: Keywords, at: Inline | Stop | Given
    ) -> torch.Tensor:
        """Run a filled layer. hidden: (B, T, H)   call: what it is called with  ->  (B, T, H)

        at: what happens at its experts, if it has any.   Several threads may do so at a time.
        Raises `Refused` if it returns anything else.
        """
        with computing(at):
            out = layer.output(layer.forward(hidden.to(self.device), **call))
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
            filling.put_all(layer.module, self._layer_tensors(layer))
            self._tables.fill(layer, filling)
            yield

    def _layer_tensors(self, layer: Layer) -> dict[str, torch.Tensor]:
        """The tensors of a layer without its experts, by their names inside it."""
        path = layer.path
        names = set(layer.module.state_dict())
        if layer.experts is not None:
            experts = self.experts[layer.experts]
            inside = experts.module.removeprefix(f"{path}.")
            names -= {f"{inside}.{name}" for name in experts.shape.parameters}
        return self._read(path, {f"{path}.{name}" for name in names})

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

    def _replace_forwards(self) -> None:
        """None of the layers runs any more when the stock model does, and the rest is filled."""
        for layers in self.lists:
            for layer in layers:
                layer.module.forward = self._stub(layer, is_last=layer is layers[-1])
        table = self._looked_up_last()
        table.forward = self._looked_up(table)
        inside = tuple(f"{layers[0].path.rpartition('.')[0]}." for layers in self.lists)
        for name, module in self.stock.named_modules():
            if not f"{name}.".startswith(inside) and any(True for _ in own_tensors(module)):
                module.register_forward_pre_hook(self._outside_hook(name))

    def _looked_up_last(self) -> Any:
        """The table that turns tokens into what the last list of layers is given."""
        model = self.stock.get_decoder() if is_encoder_decoder(self.stock) else self.stock
        return model.get_input_embeddings()

    @property
    def _leaving(self) -> torch.Tensor | None:
        """What came out of the last list of layers, while what lies after them runs."""
        outs = self._here.outs
        return outs[-1] if len(outs) == len(self.lists) else None

    def _looked_up(self, table: nn.Module) -> Callable[..., Any]:
        """Any embeddings will do for what comes after the layers: looking up would fill a table."""
        own = table.forward

        def forward(tokens: torch.Tensor) -> Any:
            leaving = self._leaving
            return own(tokens) if leaving is None else leaving.detach()

        return forward

    def _stub(self, layer: Layer, *, is_last: bool) -> Callable[..., Any]:
        names = list(inspect.signature(layer.forward).parameters)[1:]

        def forward(hidden: Any = None, *others: Any, **keywords: Any) -> Any:
            here = self._here
            if layer.in_list < len(here.outs):
                return layer.returned(here.outs[layer.in_list])
            assert here.calls is not None
            named = dict(zip(names, others, strict=False))
            here.calls.append(_Call(layer.number, hidden, {**named, **keywords}))
            if is_last:
                raise _ReachedTheLast
            return layer.returned(hidden)

        return forward

    def _outside_tensor(self, name: str) -> torch.Tensor:
        """A tensor outside the layers; of those that are tied, the one that is filled."""
        part = self._tied.get(name, name)
        for other in (part, *(one for one, tied_to in self._tied.items() if tied_to == part)):
            there = _tensor_at(self.stock, other)
            if not there.is_meta:
                return there.detach()
        (tensor,) = self._read(part, {part}).values()
        return self._shared(name, tensor)

    def _shared(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor of the model beside this one, where it is filled and the same."""
        if self._beside is not None:
            there = _tensor_at(self._beside.stock, name)
            if not there.is_meta and _same(there, tensor):
                return there.detach()
        return tensor

    def _outside_hook(self, path: str) -> Callable[..., None]:
        table = self._looked_up_last()

        def hook(module: nn.Module, _: Any) -> None:
            if module is table and self._leaving is not None:
                return
            with self._filling:
                for name in own_tensors(module):
                    if getattr(module, name).is_meta:
                        self._outside.put(module, name, self._outside_tensor(f"{path}.{name}"))

        return hook


def _tensor_at(model: nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    found: torch.Tensor = getattr(model.get_submodule(path), leaf)
    return found


def _same(there: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether two have the same values, whatever their dtypes and places; a few rows at a time."""
    rows = zip(there.split(ROWS), tensor.split(ROWS), strict=True)
    return there.shape == tensor.shape and all(
        torch.equal(one, to_device(two, one.device).to(one.dtype)) for one, two in rows
    )
