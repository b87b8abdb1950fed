"""What the scheduler refuses. Not HTTP and not the engine's tree: the engine translates.

ValueError
├── NeverFits            the sequence needs more of something than there is
├── PromptTooLong        no step has room for a prompt that one step must compute
├── TooManyKept          no place would be left that can be given to another backbone
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


class PromptTooLong(ValueError):
    """No step is sure to have room for a prompt that one step must compute. limit: in tokens."""

    def __init__(self, sequence: str, prompt: int, limit: int) -> None:
        super().__init__(
            f"sequence {sequence!r} has a prompt of {prompt} tokens, which one step must compute; "
            f"there is room for {limit}"
        )
        self.limit = limit


class TooManyKept(ValueError):
    """No place would be left that can be given to another backbone."""

    def __init__(self, num_kept: int, num_places: int) -> None:
        super().__init__(
            f"{num_kept} backbones cannot be kept in {num_places} places: "
            f"at most {num_places - 1}, so that others can be served"
        )
        self.num_kept = num_kept
        self.num_places = num_places


class DuplicateSequence(ValueError):
    """A sequence of that id is waiting or running."""
