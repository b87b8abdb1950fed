"""Chooses a recurrent mixer's leaf: packed if that proves equal to its code, else by sequence."""

import copy
import logging
from typing import Any

import numpy as np
import torch
from torch import nn

from representation.architecture.mixer_parts import (
    RecurrentMixer,
    functions_of,
    plain_functions_of,
    redirect,
)
from representation.architecture.trying import filled
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.recurrent import Recurrent
from serve_app.engine.device.trial import mixer_difference
from serve_app.engine.leaves.fitting import Fitter
from serve_app.engine.leaves.leaves import Leaf, Names
from serve_app.engine.stacks.stack_rows import StackRows
from serve_app.engine.stacks.stacks import Stack, Stacks
from serve_app.engine.states.by_sequence import BySequence
from serve_app.engine.states.packed_mixer import CONV, PackedMixer, can_be_packed
from serve_app.engine.states.state_store import StateLayer
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import CurrentStep, StepView
from serve_app.engine.step.step_states import StatePiece, StepStates

logger = logging.getLogger(__name__)
PLACES = 2
STEPS = ((5, 0, 4), (1, 3, 2), (1, 1, 1))
"""Tokens of three sequences in steps that are tried; the first is of place 0, the others of 1."""


class MixerLeaves:
    """Makes leaves for mixers, and tries each kind once."""

    def __init__(self, fitter: Fitter) -> None:
        """fitter: makes the leaves of their parts."""
        self._fitter = fitter
        self._device = fitter.device
        self._recurrent = None if fitter.native is None else Recurrent(fitter.native)
        self._found: dict[Any, bool] = {}

    def leaf(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        path: str,
        module: nn.Module,
        mixer: RecurrentMixer,
        store: StateLayer,
    ) -> Leaf:
        """The leaf for the mixer there. names: of its tensors, its parts' too."""
        if self._packs(path, module, mixer):
            return self._packed(step, stacks, names, path, module, mixer, store, self._fitter)
        return _by_sequence(step, stacks, names, module, mixer, store)

    def _packed(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        path: str,
        module: nn.Module,
        mixer: RecurrentMixer,
        store: StateLayer,
        fitter: Fitter,
    ) -> PackedMixer:
        def make_leaf(inner: str, part: nn.Module) -> Leaf:
            within = f"{inner}."
            own = {n[len(within) :]: name for n, name in names.items() if n.startswith(within)}
            return fitter.leaf(f"{path}.{inner}", part, own, mixer.units[inner])

        return PackedMixer(
            step,
            stacks,
            names,
            original=module,
            mixer=mixer,
            store=store,
            make_leaf=make_leaf,
            functions=self._functions(module),
            native=self._recurrent,
        )

    def _functions(self, module: nn.Module) -> dict[str, Any]:
        """What the packed form may call, by name: on the CPU, transformers' own functions. Those
        that other packages have put in their place need a card."""
        return plain_functions_of(module) if self._device.type == "cpu" else functions_of(module)

    def _packs(self, path: str, module: nn.Module, mixer: RecurrentMixer) -> bool:
        shapes = tuple((n, tuple(t.shape), t.dtype) for n, t in module.state_dict().items())
        key = type(module), shapes
        if key not in self._found:
            why = "its functions are not known"
            if not mixer.takes_parts:
                why = "it takes prompts in one piece only"
            elif can_be_packed(module, mixer):
                differs = self._difference(path, module, mixer)
                why = "" if differs is None else f"packed, {differs}"
            if why:
                logger.warning(
                    "%s (%s) runs for one sequence after another: %s",
                    path,
                    type(module).__name__,
                    why,
                )
            self._found[key] = not why
        return self._found[key]

    def _difference(self, path: str, module: nn.Module, mixer: RecurrentMixer) -> str | None:
        """How the packed form differs from the mixer's own code on random numbers, or None."""
        stacks = _random_stacks(module, self._device)
        names = {name: name for name in module.state_dict()}
        step = CurrentStep()
        native = self._fitter.native
        multiplier = Multiplier(self._device, native)
        fitter = Fitter(step, stacks, multiplier, self._device, native)
        stores = [StateLayer(mixer.states, 3, self._device) for _ in range(2)]
        slow = _by_sequence(step, stacks, names, copy.deepcopy(module), mixer, stores[0])
        try:
            twin = copy.deepcopy(module)
            fast = self._packed(step, stacks, names, path, twin, mixer, stores[1], fitter)
            dtype = mixer.states[CONV].dtype  # its input's; some of its weights may be in float32
            for index, lengths in enumerate(STEPS):
                view = _view(lengths, index == 0, self._device)
                generator = torch.Generator().manual_seed(index)
                x = torch.randn((1, sum(lengths), mixer.axes.shape[-1]), generator=generator)
                x = x.to(device=self._device, dtype=dtype)
                with torch.inference_mode(), step.running(view):
                    wanted, found = slow(x), fast(x)
                pairs = [(found, wanted)]
                pairs += [(stores[1].tensors[key], stores[0].tensors[key]) for key in mixer.states]
                each = (mixer_difference(*pair, dtype) for pair in pairs)
                differs = next(filter(None, each), None)
                if differs is not None:
                    return f"in step {index + 1}, {differs}"
        except Exception as error:  # noqa: BLE001 - of another kind, its code may raise anything
            return f"it fails: {error}"
        return None


def _by_sequence(
    step: CurrentStep,
    stacks: Stacks,
    names: Names,
    module: nn.Module,
    mixer: RecurrentMixer,
    store: StateLayer,
) -> BySequence:
    """The mixer's own code with transformers' own functions: what is right on every device."""
    redirect(module, plain_functions_of(module))
    return BySequence(
        step,
        stacks,
        names,
        mixer.axes,
        original=module,
        argument=mixer.argument,
        store=store,
    )


def _random_stacks(module: nn.Module, device: torch.device) -> Stacks:
    """Random weights of two places. Matrices, which are large, are one for both."""
    made, dtypes = filled(module), module.state_dict()
    stacks = {}
    for name, tensor in made.state_dict().items():
        rows = 1 if tensor.dim() == 2 else PLACES
        several = torch.stack([tensor, *[tensor.roll(1, 0) for _ in range(rows - 1)]])
        held = several.to(device=device, dtype=dtypes[name].dtype)
        stacks[name] = Stack(held, StackRows(rows, PLACES))
        if rows == 1:
            for place in range(PLACES):
                stacks[name].rows.point(place, 0)
    return Stacks(stacks)


def _view(lengths: tuple[int, ...], begin: bool, device: torch.device) -> StepView:
    """A step with so many tokens of each sequence."""
    integers = Integers(device)
    places = [0] * lengths[0] + [1] * (lengths[1] + lengths[2])
    spans = Spans.of(places, places, PLACES, integers)
    pieces, start = [], 0
    for row, length in enumerate(lengths):
        pieces += [StatePiece(row, min(row, 1), start, start + length)] if length else []
        start += length
    prompts = np.array(lengths).repeat(lengths) > 1
    states = StepStates.of(pieces, range(3) if begin else (), prompts, integers)
    integers.send()
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    return StepView(spans, spans, nothing, nothing, nothing, nothing, states=states)
