"""Finds out whose key a request shows. Reads no file and knows no HTTP."""

import hmac
from dataclasses import dataclass
from datetime import datetime

from serve_app.tenants.key_text import digest_of
from serve_app.tenants.keys_file import KeyScope, KeysFile, Tenant


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. key_id: of the key that it showed; empty if none is needed."""

    name: str
    tenant: Tenant
    key_id: str
    scopes: frozenset[KeyScope]

    def has(self, *scopes: KeyScope) -> bool:
        """Whether any of these is the key's."""
        return not self.scopes.isdisjoint(scopes)


ANYBODY = Caller("default", Tenant(), "", frozenset(KeyScope))
"""The caller of an endpoint without keys."""


class Keyring:
    """The keys of one file."""

    def __init__(self, file: KeysFile) -> None:
        self._held = {
            key.sha256: (name, tenant, key)
            for name, tenant in file.tenants.items()
            for key in tenant.keys
        }

    def caller(self, shown: str, now: datetime) -> Caller | None:
        """Whose key this is; None if it is nobody's, or has expired.

        Digests are compared, so the time taken tells nothing about the keys.
        """
        digest = digest_of(shown)
        held = self._held.get(digest)
        if held is None:
            return None
        name, tenant, key = held
        if not hmac.compare_digest(key.sha256, digest) or key.has_expired(now):
            return None
        return Caller(name, tenant, key.id, key.scopes)
