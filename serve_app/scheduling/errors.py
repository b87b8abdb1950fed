"""What the scheduler refuses. Not HTTP and not the engine's tree: the engine translates.

ValueError
├── NeverFits            the sequence needs more KV blocks than there are
└── DuplicateSequence    a sequence of that id is already scheduled
"""


class NeverFits(ValueError):
    """A sequence needs more KV blocks than there are in all. Sizes are in blocks and tokens."""

    def __init__(self, sequence: str, *, needed: int, available: int, block_size: int) -> None:
        super().__init__(
            f"sequence {sequence!r} needs {needed} KV blocks of {block_size} tokens"
            f" for its prompt and answer; there are {available}"
        )
        self.needed = needed
        self.available = available
        self.block_size = block_size


class DuplicateSequence(ValueError):
    """A sequence of that id is waiting or running."""
