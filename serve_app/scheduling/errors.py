"""What the scheduler refuses. Not HTTP and not the engine's tree: the engine translates.

ValueError
├── NeverFits            the sequence needs more of something than there is
└── DuplicateSequence    a sequence of that id is already scheduled
"""


class NeverFits(ValueError):
    """A sequence needs more of a kind than there is in all. noun: what is counted."""

    def __init__(self, sequence: str, *, needed: int, available: int, noun: str) -> None:
        super().__init__(
            f"sequence {sequence!r} needs {needed} {noun}"
            f" for its prompt and answer; there are {available}"
        )
        self.needed = needed
        self.available = available


class DuplicateSequence(ValueError):
    """A sequence of that id is waiting or running."""
