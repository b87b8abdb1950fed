"""The backbones in host memory, within a limit of bytes. Reads none and copies none."""

from collections.abc import Collection

from serve_app.engine.loading.backbones import HostBackbone
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.unit_bytes import copy_bytes
from serve_app.scheduling.ledgers.host import HostLedger


class HeldBackbones:
    """Copies on the host. A new one replaces those that have not been used for longest."""

    def __init__(self, packed: PackedModel, max_bytes: int | None) -> None:
        """max_bytes: of all copies together; None: no limit."""
        self._packed = packed
        self._ledger = HostLedger(max_bytes)
        self._held: dict[str, HostBackbone] = {}

    def __contains__(self, backbone: str) -> bool:
        """Whether it has a copy, or its copy is being read."""
        return backbone in self._ledger

    @property
    def num_bytes(self) -> int:
        """Bytes of the copies."""
        return sum(held.num_bytes for held in self._held.values())

    @property
    def has_room(self) -> bool:
        """Whether there is room for one more copy without dropping any."""
        return self._ledger.fits(self._copy_bytes)

    def take(self, backbone: str) -> HostBackbone | None:
        """Its copy, which stays until `note` is called for it; None if there is none."""
        held = self._held.get(backbone)
        if held is not None:
            self._ledger.pin(backbone)
        return held

    def make_room(self, backbone: str) -> bool:
        """Make room for its copy, which is read next, by dropping others if possible.

        Call `note` when it has been read.
        """
        dropped = self._ledger.take(backbone, self._copy_bytes)
        for other in dropped or ():
            del self._held[other]
        return dropped is not None

    def note(self, backbone: str, held: HostBackbone | None) -> None:
        """Its copy has been read or used; None: it could not be made."""
        self._ledger.unpin(backbone)
        if held is None:
            self._ledger.give_back(backbone)
        else:
            self._held[backbone] = held

    def keep(self, needed: Collection[str]) -> None:
        """Drop all copies but those of these backbones, and those that are in use."""
        for backbone in list(self._held):
            if backbone not in needed and self._ledger.give_back(backbone):
                del self._held[backbone]

    def check(self) -> None:
        """Assert that exactly the counted copies are held."""
        self._ledger.check(self._held)

    @property
    def _copy_bytes(self) -> int:
        """Bytes of a copy of one backbone."""
        stacks = self._packed.stacks
        sizes = (stacks[name][0].nbytes for name in stacks.names())
        return copy_bytes(sizes, self._packed.device)
