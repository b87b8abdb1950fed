"""Gives memory back to the system, a moment after something large was done with."""

import asyncio

from representation.freed_memory import give_back

_SOON_S = 1.0
"""Until what handed it on has let it go, too."""


class Freeing:
    """All on one event loop, which does not wait for it."""

    def __init__(self) -> None:
        self._is_due = False

    def soon(self) -> None:
        """Once for all that ask within that moment."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(_SOON_S, self._begin)

    def _begin(self) -> None:
        self._is_due = False
        asyncio.get_running_loop().run_in_executor(None, give_back)
