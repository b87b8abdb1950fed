"""What a run without data shows of a model, as it is noted. Runs nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from representation.architecture.attention import AttentionKind, AttentionShape
from representation.architecture.errors import Unservable
from representation.architecture.states import SequenceStates, States

TRACED_TOKENS = 7919
TRACED_OUTPUTS = 7907
TRACED_INPUTS = 7901
"""Primes that no dimension of a model is likely to have: they mark the token axis of a shape, of
all tokens, of those that need logits, and of an encoder's input."""

Stream = Literal["tokens", "outputs", "inputs"]
"""Of which tokens a module has a row each: of those of decoders, of those of them that need logits,
or of those that encoders are given."""
STREAMS: dict[int, Stream] = {
    TRACED_TOKENS: "tokens",
    TRACED_OUTPUTS: "outputs",
    TRACED_INPUTS: "inputs",
}


@dataclass(frozen=True, slots=True)
class Axes:
    """Token axis of each tensor argument and of each tensor result; None if it has none.

    shape: of the first tensor argument, as traced.
    stream: of which tokens they are; of an attention module, those that ask.
    """

    inputs: tuple[int | None, ...]
    results: tuple[int | None, ...]
    shape: tuple[int, ...]
    stream: Stream

    @property
    def keeps_tokens(self) -> bool:
        """Tokens go in, and tokens come out."""
        return (
            bool(self.results) and None not in self.results and self.inputs[:1] not in ((), (None,))
        )

    @property
    def keeps_shape(self) -> bool:
        """One tensor in, one out, tokens along the same axis."""
        return len(self.inputs) == 1 and self.inputs == self.results


def _token_axis(tensor: torch.Tensor) -> int | None:
    found = [axis for axis, size in enumerate(tensor.shape) if size in STREAMS]
    return found[0] if found else None


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a result: itself, or those of a tuple."""
    values = value if isinstance(value, tuple | list) else (value,)
    return [item for item in values if isinstance(item, torch.Tensor)]


class Trace:
    """What a run without data shows of a model.

    axes: token axes of every module that was called.
    attentions, kinds, sinks: as in `Anatomy`.
    states: what recurrent mixers keep.
    readers: modules whose own code reads the weights of another.   first_reads: the modules whose
    weights are read, numbered in the order of their first read.
    """

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.axes: dict[str, Axes] = {}
        self.attentions: dict[str, AttentionShape] = {}
        self.kinds: dict[str, AttentionKind] = {}
        self.sinks: dict[str, str] = {}
        self.states: dict[str, States] = {}
        self.readers: set[str] = set()
        self.first_reads: dict[str, int] = {}
        self._running: list[str] = []
        self._read: dict[tuple[int, int], list[str]] = {}
        self._kept: list[torch.Tensor] = []
        self._given: dict[int, str] = {}

    def note_start(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pre-hook: the module's code runs from here on."""
        path = self._paths[id(module)]
        self._running.append(path)
        if type(module) is nn.Linear and args:
            self._kept.append(args[0])  # so that no other tensor gets its id
            self._read.setdefault((id(args[0]), args[0]._version), []).append(path)

    @property
    def siblings(self) -> tuple[tuple[str, ...], ...]:
        """Linear layers that read the same tensor, unchanged between, in the order of calls."""
        calls = Counter(path for paths in self._read.values() for path in paths)
        groups = (tuple(p for p in paths if calls[p] == 1) for paths in self._read.values())
        return tuple(group for group in groups if len(group) > 1)

    def is_running(self, path: str) -> bool:
        """Whether the code that runs now is that of the module there."""
        return bool(self._running) and self._running[-1] == path

    def note_read(self, path: str) -> None:
        """Note that a weight of the module there is read, and by whom if it is another module."""
        self.first_reads.setdefault(path, len(self.first_reads))
        if self._running[-1] != path:
            self.readers.add(self._running[-1])

    def note_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """A forward hook: notes the token axes of the module's inputs and outputs."""
        self._running.pop()
        given = [*args, *kwargs.values()]
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        self.axes[self._paths[id(module)]] = Axes(
            inputs=tuple(_token_axis(tensor) for tensor in tensors),
            results=tuple(_token_axis(tensor) for tensor in tensors_in(out)),
            shape=tuple(tensors[0].shape) if tensors else (),
            stream=_stream(tensors),
        )

    @property
    def mixers(self) -> tuple[str, ...]:
        """Paths of all token mixers."""
        return *self.attentions, *self.states

    def _note_mixer(self, path: str) -> None:
        if path in self.mixers:
            raise Unservable(f"{path} mixes tokens more than once in a step")

    def note_bias(self, module: nn.Module, bias: torch.Tensor) -> torch.Tensor:
        """A module has made a bias of its table."""
        self._kept.append(bias)
        self._given[id(bias)] = self._paths[id(module)]
        return bias

    def note_states(self, path: str, handed: SequenceStates) -> None:
        """A recurrent mixer has run. Raises: Unservable for a second call."""
        self._note_mixer(path)
        self.states[path] = handed.shapes

    def note_attention(
        self,
        module: nn.Module,
        shape: AttentionShape,
        kind: AttentionKind,
        sink: Any,
        bias: torch.Tensor | None,
    ) -> None:
        """sink: the parameter of the module, or None.   bias: added to its scores, or None; one
        that no table gave is of zeros.   Raises: Unservable for a second call.
        """
        path = self._paths[id(module)]
        self._note_mixer(path)
        self.attentions[path] = shape
        self.kinds[path] = replace(kind, bias=self._given.get(id(bias)))
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is sink:
                self.sinks[path] = name


def _stream(tensors: Sequence[torch.Tensor]) -> Stream:
    """Of which tokens a module's arguments are."""
    marks = {STREAMS[size] for tensor in tensors for size in tensor.shape if size in STREAMS}
    if "outputs" in marks:
        return "outputs"
    return "inputs" if marks == {"inputs"} else "tokens"
