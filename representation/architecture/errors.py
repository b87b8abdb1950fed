"""The one error of this package."""


class Unservable(Exception):
    """A config, or the model that it describes, cannot be served. The text says why.

    `consolidation` raises it as `Refused`, the engine as `Unsupported`, in the same words.
    """
