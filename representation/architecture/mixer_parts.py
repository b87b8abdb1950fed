"""The parts of a recurrent mixer, for code that runs it on packed tokens. Judges no model."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from representation.architecture.skeleton import own_tensors
from representation.architecture.states import States
from representation.architecture.tracing.trace import TRACED_TOKENS, Axes, Trace

LOOPS = ("mamba_selective_scan",)
"""Functions of transformers with a loop over tokens, which are the last axis of what they take and
of the first that they give."""


@dataclass(frozen=True, slots=True)
class RecurrentMixer:
    """A token mixer that keeps state of a fixed size.

    argument: the name under which it takes a cache.   states: what it keeps of one sequence.
    axes: of its input and its output.
    units: its modules with weights that map tokens to tokens by themselves, by path inside it.
    inputs: its other modules that are called -> the shape of their first tensor, as traced.
    takes_parts: whether several tokens may come after others of their sequence.
    """

    argument: str
    states: States
    axes: Axes
    units: dict[str, Axes]
    inputs: dict[str, tuple[int, ...]]
    takes_parts: bool

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state."""
        return sum(state.num_bytes for state in self.states.values())


def recurrent_mixer(
    path: str,
    mixer: nn.Module,
    argument: str,
    owners: Collection[str],
    trace: Trace,
    *,
    takes_parts: bool,
) -> RecurrentMixer:
    """What is known of the mixer there. owners: modules that own weights."""
    units: dict[str, Axes] = {}
    inputs: dict[str, tuple[int, ...]] = {}
    for inner, module in mixer.named_modules():
        whole, axes = f"{path}.{inner}", trace.axes.get(f"{path}.{inner}")
        within = any(inner.startswith(f"{unit}.") for unit in units)
        if not inner or within or axes is None:
            continue
        if whole not in owners and whole not in trace.readers:
            continue
        if _is_of_vectors(module):
            inputs[inner] = axes.shape
        elif axes.keeps_tokens:
            units[inner] = axes
    states, axes = trace.states[path], trace.axes[path]
    return RecurrentMixer(argument, states, axes, units, inputs, takes_parts)


def _is_of_vectors(module: nn.Module) -> bool:
    """Whether a module has nothing but vectors, as norms do."""
    return not list(module.children()) and all(
        tensor.dim() == 1 for tensor in module.state_dict().values()
    )


def rows_of_token(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Along which axis a traced tensor has its tokens, and how many rows each; None: nowhere."""
    for axis, size in enumerate(shape):
        if size and size % TRACED_TOKENS == 0:
            return axis, size // TRACED_TOKENS
    return None


def own_names(mixer: nn.Module, units: Collection[str]) -> list[str]:
    """Names of the tensors of a mixer that are not those of its units."""
    return [
        f"{path}.{name}" if path else name
        for path, module in mixer.named_modules()
        if not any(path == unit or path.startswith(f"{unit}.") for unit in units)
        for name in own_tensors(module)
    ]


def functions_of(mixer: nn.Module) -> dict[str, Any]:
    """The functions of its file that a mixer's forward may call, by name."""
    forward = _forward(mixer)
    found = forward.__globals__
    return {name: found[name] for name in forward.__code__.co_names if name in found}


def plain_functions_of(mixer: nn.Module) -> dict[str, Any]:
    """The same, as transformers has them: another package may have put its own in their place."""
    functions = functions_of(mixer).items()
    return {n: inspect.unwrap(f) if isinstance(f, FunctionType) else f for n, f in functions}


def redirect(mixer: nn.Module, functions: Mapping[str, Any]) -> None:
    """Let the forward of this one mixer, without what decorates it, find other functions under
    these names."""
    own = _forward(mixer)
    changed = FunctionType(
        own.__code__,
        {**own.__globals__, **functions},
        own.__name__,
        own.__defaults__,
        own.__closure__,
    )
    changed.__kwdefaults__ = own.__kwdefaults__
    vars(mixer)["forward"] = MethodType(changed, mixer)


@contextmanager
def plain_functions(mixers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block, mixers call transformers' own functions, which run without data and on the
    CPU, not those of other packages (flash-linear-attention, mamba-ssm) that it has put in their
    place. Without data, those of `LOOPS` take a moment, not seconds."""
    changed = list(mixers)
    for mixer in changed:
        functions = plain_functions_of(mixer)
        loops = {name: _shortened(functions[name]) for name in LOOPS if name in functions}
        redirect(mixer, functions | loops)
    try:
        yield
    finally:
        for mixer in changed:
            del vars(mixer)["forward"]


def _shortened(loop: Any) -> Any:
    """The same function, which without data runs for the first token alone."""

    @wraps(loop)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        if not args[0].is_meta:
            return loop(*args, **kwargs)
        first = {name: _first_token(value) for name, value in kwargs.items()}
        found = loop(*map(_first_token, args), **first)
        out, *states = found if isinstance(found, tuple) else (found,)
        whole = out.expand(*out.shape[:-1], args[0].shape[-1])
        return (whole, *states) if states else whole

    return shortened


def _first_token(value: Any) -> Any:
    """(…, T) -> (…, 1)"""
    is_by_token = isinstance(value, torch.Tensor) and value.shape[-1:] == (TRACED_TOKENS,)
    return value[..., :1] if is_by_token else value


def _forward(mixer: nn.Module) -> FunctionType:
    """The mixer's own forward, without what decorates it."""
    found = inspect.unwrap(type(mixer).forward)
    assert isinstance(found, FunctionType)
    return found
