"""What one step does, as values. Decided by the scheduler; carried out by the engine's runner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serve_app.scheduling.sequence import ModelKey

Stream = Literal["decoder"]
"""Which of a sequence's token streams a chunk is of. All models have one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some tokens of one sequence: positions start .. start + len(tokens).

    A `pending` chunk has one token, which the step before is still sampling for the sequence; 0
    stands for it.
    `held` is what the sequence has of each kind of need for positions [0, start + len(tokens)),
    as its table of KV blocks. `samples` says
    that the last of the tokens is the last one expected, so that the next is to be sampled;
    `num_generated` is the index that token will have among the generated ones. With
    `keep_prompt_logits` the logits of the chunk's prompt positions are wanted; after a preemption
    some positions come a second time. The first `forward_len` tokens of the sequence are those
    that its model alone would compute in one forward.
    """

    sequence: str
    model: ModelKey
    place: int
    start: int
    tokens: tuple[int, ...]
    pending: bool
    held: Mapping[str, tuple[int, ...]]
    prompt_len: int
    forward_len: int
    samples: bool
    keep_prompt_logits: bool
    num_generated: int
    stream: Stream = "decoder"

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class BackboneCopy:
    """Begin copying this backbone into this place; nothing in the place is needed any more."""

    backbone: str
    place: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Chunks by place, then by arrival; no chunk is on a place that a load of the plan names."""

    chunks: tuple[Chunk, ...] = ()
    loads: tuple[BackboneCopy, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)
