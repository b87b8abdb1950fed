"""What can go wrong while consolidating, as one tree. Reading releases has its own tree.

    ConsolidationError
    ├── Refused      the input or the recipe is wrong; the command line exits with 2
    └── RunFailed    the work could not be done, though it was rightly asked for; exits with 1

Errors of the registry are `consolidation.release.errors`.
"""


class ConsolidationError(Exception):
    """Base of everything the pipeline raises on purpose."""


class Refused(ConsolidationError):
    """The input, or what was asked, cannot be accepted. Nothing was published."""


class RunFailed(ConsolidationError):
    """Rightly asked, and not done. Nothing was published unless the text says so."""
