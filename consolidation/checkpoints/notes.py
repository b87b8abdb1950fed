"""What people should know of checkpoints that are read all the same. Decides not what that is."""

import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

Note = Callable[[str], None]
"""Told it, a line each."""


def log_note(words: str) -> None:
    """The usual one."""
    _log.warning("%s", words)


def note_nothing(words: str) -> None:
    """For what was noted before."""
