"""Rotary angles for tokens of models whose rope parameters differ. Computes none itself.

Each model keeps its own rotary module, made from its own config. Some variants (dynamic,
longrope) look at the length of the sequence. `generate()` shows them the prompt's length for the
prompt's tokens, and the position plus one for each later token. So the length is a function of
(prompt length, position), however a prompt is cut into chunks and whoever shares the step. Some
architectures recompute everything when the length passes a limit: `recompute_length`.
"""

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from serve_app.engine.step.step import CurrentStep, RopeSpan

FAR = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class OwnRotary:
    """A model's own rotary module. Equal signatures mean equal modules.

    by_length: whether its angles depend on the length of the sequence.
    """

    module: nn.Module
    by_length: bool
    signature: str

    @classmethod
    def of(cls, module: nn.Module, fields: Mapping[str, Any]) -> "OwnRotary":
        """fields: those of the config that its angles may depend on"""
        return cls(module, looks_at_length(module), repr(sorted(fields.items())))


class PackedRotary(nn.Module):
    """Replaces the rotary module of a stock model. Has each model's own, by map row.

    config: of the replaced module; some models look at it.
    """

    def __init__(self, step: CurrentStep, config: Any) -> None:
        super().__init__()
        self.config = config
        self.step = step
        self._own: dict[int, OwnRotary] = {}
        self._kinds: list[nn.Module] = []
        self._kind_of_row = torch.empty(0, dtype=torch.int64)

    def register_row(self, row: int, own: OwnRotary) -> None:
        """Give a map row its rotary module."""
        self._own[row] = own
        self._note_kinds()

    def forget_row(self, row: int) -> None:
        """Forget a map row's model, if there is one: it has no more tokens."""
        self._own.pop(row, None)
        self._note_kinds()

    def _note_kinds(self) -> None:
        """Which modules differ, and which of them each map row has."""
        kinds = {own.signature: own.module for own in self._own.values()}
        number = {signature: at for at, signature in enumerate(kinds)}
        of_row = [0] * (max(self._own, default=-1) + 1)
        for row, own in self._own.items():
            of_row[row] = number[own.signature]
        self._kinds = list(kinds.values())
        if self._kinds:
            device = next(self._kinds[0].buffers()).device
            self._kind_of_row = torch.tensor(of_row, dtype=torch.int64, device=device)
        self.step.revise()

    @property
    def looks_at_length(self) -> bool:
        """Whether the angles of any model depend on the length of the sequence."""
        return any(own.by_length for own in self._own.values())

    def is_by_length(self, row: int) -> bool:
        """Whether the angles of the model in a map row depend on the length of the sequence."""
        return self._own[row].by_length

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kw: Any) -> Any:
        """x: (1, T, H), for its dtype   position_ids: (…, 1, T)  ->  the originals' results"""
        if self.step.view.tokens.anywhere:
            return self._run_all(x, position_ids, *args, **kw)
        parts = [
            self._run(span, x, position_ids[..., span.start : span.end], *args, **kw)
            for span in self._spans()
        ]
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], torch.Tensor):
            return torch.cat(parts, dim=1)
        return tuple(torch.cat(column, dim=1) for column in zip(*parts, strict=True))

    def _run(
        self, span: RopeSpan, x: torch.Tensor, positions: torch.Tensor, *args: Any, **kw: Any
    ) -> Any:
        own = self._own[span.row]
        if not own.by_length:
            return own.module(x, positions, *args, **kw)
        return at_length(own.module, x, positions, span.length, *args, **kw)

    def _run_all(self, x: torch.Tensor, positions: torch.Tensor, *args: Any, **kw: Any) -> Any:
        """Computes every kind of angles for all tokens, then takes each token's own."""
        each = [original(x, positions, *args, **kw) for original in self._kinds]
        if len(each) == 1:
            return each[0]
        chosen = self._kind_of_row[self.step.view.tokens.rows]  # (T,)
        tokens = torch.arange(len(chosen), device=chosen.device)

        def choose(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
            """(1, T, D) of each kind -> (1, T, D)"""
            return torch.cat(parts)[chosen, tokens].unsqueeze(0)

        if isinstance(each[0], torch.Tensor):
            return choose(tuple(each))
        return tuple(choose(column) for column in zip(*each, strict=True))

    def _spans(self) -> Iterable[RopeSpan]:
        """The step's spans; joins neighbours with the same module and length."""
        joined: list[RopeSpan] = []
        for span in self.step.view.ropes:
            if joined and self._alike(joined[-1], span):
                last = joined.pop()
                span = RopeSpan(last.start, span.end, last.row, last.length)
            joined.append(span)
        return joined

    def _alike(self, one: RopeSpan, other: RopeSpan) -> bool:
        own = self._own[one.row]
        if own.signature != self._own[other.row].signature:
            return False
        return not own.by_length or one.length == other.length


def at_length(
    original: nn.Module,
    x: torch.Tensor,
    positions: torch.Tensor,
    length: int,
    *args: Any,
    **kw: Any,
) -> Any:
    """The angles that the module gives from its initial state in a forward over `length` tokens.

    The modules take the length from the largest position, so one more is added and dropped again.
    """
    last = positions.new_full((*positions.shape[:-1], 1), length - 1)
    out = copy.deepcopy(original)(x, torch.cat([positions, last], dim=-1), *args, **kw)
    if isinstance(out, torch.Tensor):
        return out[:, :-1]
    return tuple(part[:, :-1] for part in out)


def looks_at_length(original: nn.Module) -> bool:
    """Whether the angles of the first positions change if a far one is requested too."""
    device = next(original.buffers()).device
    positions = torch.arange(4, device=device).unsqueeze(0)
    x = torch.zeros((1, 4, 1), device=device)
    arguments = _layer_types(original)
    for kind in arguments:
        near = at_length(original, x, positions, 4, *kind)
        far = at_length(original, x, positions, FAR, *kind)
        pairs = zip(_parts(near), _parts(far), strict=True)
        if any(not torch.equal(one, other) for one, other in pairs):
            return True
    return False


def recompute_length(architecture: type, config: Any) -> int | None:
    """The number of known tokens beyond which `generate()` drops its cache and recomputes them all.

    Phi-style models do this when long rope factors replace short ones.
    """
    prepare = getattr(architecture, "prepare_inputs_for_generation", None)
    limit = getattr(config.get_text_config(), "original_max_position_embeddings", None)
    if prepare is None or limit is None:
        return None
    return int(limit) if "original_max_position" in inspect.getsource(prepare) else None


def _layer_types(original: nn.Module) -> list[tuple[str, ...]]:
    """Modules with frequencies for each layer type are asked for one type at a time."""
    types: Any = getattr(original, "rope_type", None)
    return [(kind,) for kind in types] if isinstance(types, dict) else [()]


def _parts(out: Any) -> tuple[torch.Tensor, ...]:
    return (out,) if isinstance(out, torch.Tensor) else tuple(out)
