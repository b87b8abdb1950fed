"""What one step does, as values. Decided by the scheduler; carried out by the engine's runner."""

from dataclasses import dataclass
from typing import NamedTuple

from serve_app.scheduling.sequence import Held, ModelKey


class Chunk(NamedTuple):
    """Some tokens of one sequence: positions start .. start + len(tokens).

    A step has one for each of its sequences: making a frozen dataclass takes four times as long.
    """

    sequence: str
    model: ModelKey
    place: int
    """Of the model's backbone: chunks of a step are computed place by place."""
    start: int
    tokens: tuple[int, ...]
    pending: bool
    """The only token is the one that the step before is still sampling; 0 stands for it."""
    held: Held
    """By kind of need, the units for positions [0, end): what it reads, and where it writes."""
    prompt_len: int
    forward_len: int
    """The model alone would compute that many first tokens in one forward: some rotate by it."""
    samples: bool
    """The last of the tokens is the last one expected, so the next one is to be sampled."""
    keep_prompt_logits: bool
    """Logits of prompt positions are wanted; after a preemption some come a second time."""
    num_generated: int
    """The index, among the generated tokens, of the one that is sampled next."""
    by_length: bool
    """What is computed may depend on the length of the sequence, not just on its tokens."""
    num_inputs: int = 0
    """How many first positions are the input of an encoder; the first chunk has them all."""

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def num_decoded(self) -> int:
        """How many of the tokens a decoder computes: those that are no input of an encoder."""
        return len(self.tokens) - max(0, self.num_inputs - self.start)

    @property
    def decoded(self) -> "Chunk":
        """The part that a decoder computes, with positions as the decoder counts them."""
        first = max(self.start, self.num_inputs)
        return self._replace(
            start=first - self.num_inputs,
            tokens=self.tokens[first - self.start :],
            prompt_len=self.prompt_len - self.num_inputs,
            forward_len=self.forward_len - self.num_inputs,
        )


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
