"""A recurrent mixer's own code, run once for the tokens of all sequences of all models.

Its linear layers are leaves. In place of the functions that look from token to token
(`causal_conv1d_fn` and a recurrence), its code finds those of `convolution.py` and
`recurrences.py`, which know where each sequence begins and where its state is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from representation.architecture.mixer_parts import (
    RecurrentMixer,
    functions_of,
    own_names,
    redirect,
    rows_of_token,
)
from representation.architecture.states import StateKey
from serve_app.engine.device.native.recurrent import Recurrent
from serve_app.engine.leaves.leaves import Leaf, Names
from serve_app.engine.leaves.originals import Original
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.states.convolution import Taps, convolve
from serve_app.engine.states.recurrences import recurrence
from serve_app.engine.states.state_store import StateLayer
from serve_app.engine.step.step import CurrentStep
from serve_app.engine.step.step_states import StepStates

CONVOLUTION = "causal_conv1d_fn"
CONV, RECURRENT = StateKey("conv", 0), StateKey("recurrent", 0)
MakeLeaf = Callable[[str, nn.Module], Leaf]
"""Takes the path of a module inside the mixer, and the module."""


class _AllAtOnce:
    """The cache that the mixer is handed: the functions that it calls know the states."""

    def has_previous_state(self, *_: Any, **__: Any) -> bool:
        return False

    def is_recording_past(self, *_: Any) -> bool:
        return False

    def get_conv_state(self, *_: Any, **__: Any) -> None:
        return None

    def get_recurrent_state(self, *_: Any, **__: Any) -> None:
        return None

    def update_conv_state(self, conv_states: Any, *_: Any, **__: Any) -> Any:
        return conv_states

    def update_recurrent_state(self, recurrent_states: Any, *_: Any, **__: Any) -> Any:
        return recurrent_states


class PackedMixer(Leaf):
    """A mixer's original code, once for all tokens of a step."""

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        *,
        original: nn.Module,
        mixer: RecurrentMixer,
        store: StateLayer,
        make_leaf: MakeLeaf,
        functions: Mapping[str, Any],
        native: Recurrent | None,
    ) -> None:
        """original: keeps its modules only where no leaf takes their place. `can_be_packed`.

        functions: that its forward may call, by name.
        """
        own = own_names(original, mixer.units)
        super().__init__(step, stacks, {name: names[name] for name in own}, mixer.axes)
        self._inputs = {name: mixer.inputs.get(name.rpartition(".")[0]) for name in own}
        self._argument = mixer.argument
        self._kept = store.tensors
        self.parts = nn.ModuleList(
            make_leaf(path, original.get_submodule(path)) for path in mixer.units
        )
        for path, leaf in zip(mixer.units, self.parts, strict=True):
            original.set_submodule(path, leaf)
        ours: dict[str, Any] = {CONVOLUTION: lambda *args, **kw: self.convolve(*args, **kw)}
        found = recurrence(functions, native)
        if found is not None:
            name, self._recurrence = found
            ours[name] = lambda *args, **kw: self.recur(*args, **kw)
        redirect(original, {**functions, **ours})
        self._original = Original(original, own)

    def forward(self, hidden_states: torch.Tensor, **others: Any) -> Any:
        """hidden_states: (1, T, H)  ->  (1, T, H)"""
        weights = {name: self._weight(name) for name in self.names}
        return self._original(weights, hidden_states, **others | {self._argument: _AllAtOnce()})

    def _weight(self, name: str) -> Any:
        """A tensor of the mixer's own code, for all tokens."""
        stack, spans = self.stack(name), self.spans
        if stack.tensor.dim() == 4:
            return Taps(stack, spans)
        row = stack.rows.sole(spans)
        if row is not None:
            return stack.tensor[row]
        vectors = stack.tensor.index_select(0, stack.rows.by_token(spans))  # (T, p)
        shape = self._inputs[name]
        place = None if shape is None else rows_of_token(shape)
        if shape is None or place is None:
            return vectors
        axis, each = place
        vectors = vectors.repeat_interleave(each, dim=0)  # (T * each, p)
        between = [1] * (len(shape) - axis - 2)
        return vectors.view(*[1] * axis, len(vectors), *between, vectors.shape[1])

    @property
    def _states(self) -> StepStates:
        states = self.step.view.states
        assert states is not None, "the step has no states"
        return states

    def convolve(
        self,
        hidden_states: torch.Tensor,
        weight: Taps,
        bias: torch.Tensor | None = None,
        activation: str | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """In place of transformers' function. hidden_states: (1, C, T)  ->  (1, C, T)"""
        return convolve(hidden_states, weight, bias, activation, self._states, self._kept[CONV])

    def recur(self, *args: Any, **kwargs: Any) -> Any:
        """In place of transformers' function. -> its result, and nothing for the new state"""
        kwargs = {key: value for key, value in kwargs.items() if key not in REPLACED}
        kept = self._kept[RECURRENT]
        return self._recurrence.run(self._states, kept, *args, **kwargs), kept.new_empty(0)


REPLACED = frozenset(
    {
        "cu_seqlens",
        "initial_state",
        "initial_states",
        "output_final_state",
        "return_final_states",
    }
)
"""Keywords of recurrences that say what the states of the step say."""


def can_be_packed(mixer: nn.Module, known: RecurrentMixer) -> bool:
    """Whether the mixer's code looks from token to token only by functions that are known here."""
    names = functions_of(mixer)
    wanted = {CONV} if recurrence(names, None) is None else {CONV, RECURRENT}
    return CONVOLUTION in names and known.states.keys() == wanted
