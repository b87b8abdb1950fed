"""On which side of a canary a request is. A pure function, the same at every replica."""

import hashlib

from consolidation.release import Canary, Side


def side_of(canary: Canary | None, tenant: str, conversation: str) -> Side:
    """A tenant that the canary names is on that side; others by a hash of tenant and conversation.

    A larger share leaves on the canary's side all that were there before.
    """
    if canary is None:
        return "stable"
    named = canary.tenants.get(tenant)
    if named is not None:
        return named
    name = f"{tenant}\0{conversation}".encode(errors="replace")
    point = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") / 2**64
    return "canary" if point * 100 < canary.percent else "stable"


def settled_side_of(canary: Canary | None, tenant: str) -> Side:
    """The side of a tenant's requests whatever their conversation; stable if they are divided."""
    if canary is None:
        return "stable"
    return canary.tenants.get(tenant, "canary" if canary.percent == 100 else "stable")
