"""Counts what an engine does."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Totals since the engine was made. Seconds are of the engine's clock.

    forward_seconds: the part of the steps' seconds that went into the packed forward pass; on CUDA,
    until it was launched.   backbone_load_bytes: bytes copied into places, without what was there
    already.   prefix_tokens: tokens of prompts that were looked up in the prefix cache.
    prefix_hit_tokens: those that were found, and need not be computed.
    """

    num_steps: int = 0
    step_seconds: float = 0.0
    forward_seconds: float = 0.0
    backbone_loads: int = 0
    backbone_load_seconds: float = 0.0
    backbone_load_bytes: int = 0
    backbone_load_failures: int = 0
    staging_seconds: float = 0.0
    prefix_tokens: int = 0
    prefix_hit_tokens: int = 0

    def note_step(self, seconds: float, forward_s: float) -> None:
        self.num_steps += 1
        self.step_seconds += seconds
        self.forward_seconds += forward_s

    def note_prefix(self, num_tokens: int, num_found: int | None) -> None:
        """num_found: None if nothing was looked up."""
        if num_found is not None:
            self.prefix_tokens += num_tokens
            self.prefix_hit_tokens += num_found
