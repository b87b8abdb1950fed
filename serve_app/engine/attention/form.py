"""What a layer asks of attention, and what a form of attention must return. Computes nothing."""

from dataclasses import dataclass
from typing import Protocol

import torch

from serve_app.engine.attention.biases import PositionBias
from serve_app.engine.attention.store import KVLayer
from serve_app.engine.step.paging import Paging
from serve_app.engine.step.step import StepView


@dataclass(frozen=True, slots=True)
class Call:
    """One layer's attention in one step. Its keys and values are stored already.

    query: (T, Hq, Dk)   window: how many of the last tokens each token sees, including itself;
    None: all.   scaling: of the scores.   softcap: the scores are capped at ± that.
    sinks: (T, Hq), for each query one more score, which takes a share of the probability and
    has no value (GPT-OSS model card, 2025).   bias: of the scores; None: none.
    """

    query: torch.Tensor
    store: KVLayer
    view: StepView
    window: int | None
    scaling: float
    sinks: torch.Tensor | None
    softcap: float | None
    bias: PositionBias | None = None


@dataclass(frozen=True, slots=True)
class AttentionNeeds:
    """Bytes that forms of attention keep: once, for each kind of layer, and for each kind of layer
    and size that is captured.
    """

    once: int = 0
    kind: int = 0
    captured: int = 0


class AttentionForm(Protocol):
    """One way to attend.

    name: for people.   takes_groups, takes_paging: the shape in which it needs the sequences.
    num_bytes: what it keeps on the device between steps.
    """

    name: str
    takes_groups: bool
    takes_paging: bool

    @property
    def num_bytes(self) -> int: ...

    def attend(self, call: Call) -> torch.Tensor:
        """Each token attends to its own sequence. ->  (T, Hq, Dv)"""

    def prepare(self, paging: Paging) -> None:
        """Do the host's part before a captured step runs with these sequences."""


def with_sinks(
    out: torch.Tensor, log_total: torch.Tensor, sinks: torch.Tensor | None
) -> torch.Tensor:
    """Give sinks their share of the probability afterwards.

    out: (T, Hq, Dv)   log_total: (T, Hq), log of the sum of exponentials of the scores
    sinks: (T, Hq)  ->  (T, Hq, Dv)
    Without a sink s the weights are exp(score) / Z, with it exp(score) / (Z + exp(s)): so all are
    multiplied by the factor Z / (Z + exp(s)), which is sigmoid(log Z - s).
    """
    if sinks is None:
        return out
    return (out * torch.sigmoid(log_total.float() - sinks.float()).unsqueeze(-1)).to(out.dtype)
