"""Counts what an engine does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunSeconds:
    """Where the time of running one step went. `Counters` says what each is."""

    indices: float = 0.0
    forward: float = 0.0
    sampling: float = 0.0
    waiting: float = 0.0


@dataclass(slots=True)
class Counters:
    """Totals since the engine was made. Seconds are of the engine's clock.

    step_seconds: from the launch of a step, or the end of the one before, until its results are
    there.   planning_seconds: of the scheduler, before that.   indices_seconds: in which the
    tensors that describe a step were made.   forward_seconds: in the packed forward pass; on CUDA,
    until it was launched.   sampling_seconds: in sampling and log-probabilities; on CUDA, until
    they were launched.   waiting_seconds: in which the host waited for the device.
    committing_seconds: of the scheduler, afterwards.   messages_seconds: in which events were made
    and handed to their listeners.
    backbone_load_bytes: bytes copied into places, without what was there already.
    prefix_tokens: tokens of prompts that were looked up in the prefix cache.
    prefix_hit_tokens: those that were found, and need not be computed.
    """

    num_steps: int = 0
    step_seconds: float = 0.0
    planning_seconds: float = 0.0
    indices_seconds: float = 0.0
    forward_seconds: float = 0.0
    sampling_seconds: float = 0.0
    waiting_seconds: float = 0.0
    committing_seconds: float = 0.0
    messages_seconds: float = 0.0
    backbone_loads: int = 0
    backbone_load_seconds: float = 0.0
    backbone_load_bytes: int = 0
    backbone_load_failures: int = 0
    staging_seconds: float = 0.0
    prefix_tokens: int = 0
    prefix_hit_tokens: int = 0

    def note_step(self, seconds: float, run: RunSeconds) -> None:
        self.num_steps += 1
        self.step_seconds += seconds
        self.indices_seconds += run.indices
        self.forward_seconds += run.forward
        self.sampling_seconds += run.sampling
        self.waiting_seconds += run.waiting

    def note_prefix(self, num_tokens: int, num_found: int | None) -> None:
        """num_found: None if nothing was looked up."""
        if num_found is not None:
            self.prefix_tokens += num_tokens
            self.prefix_hit_tokens += num_found
