"""The other replicas of an application, as one of them knows them. Asks nobody itself."""

from typing import Protocol


class Neighbours(Protocol):
    """Those beside which one replica at a time may stage a release, or drain for it.

    hear_s: how long it takes, in seconds, until ingresses know that this one admits nothing.
    """

    @property
    def hear_s(self) -> float: ...

    async def take_turn(self) -> bool:
        """Whether it is this replica's turn now. It is until `end_turn`."""
        ...

    async def end_turn(self) -> None: ...


class Alone:
    """There are none."""

    hear_s = 0.0

    async def take_turn(self) -> bool:
        return True

    async def end_turn(self) -> None:
        """Nobody waits."""
