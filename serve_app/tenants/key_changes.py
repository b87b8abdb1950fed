"""What can be done to a keys file: add, revoke, rotate. Each gives a new file, and writes none."""

from dataclasses import dataclass, field
from datetime import datetime

from serve_app.service_class import ServiceClass
from serve_app.tenants.errors import UnknownKey
from serve_app.tenants.key_text import digest_of, new_key
from serve_app.tenants.keys_file import Key, KeyScope, KeysFile, Limits, Tenant


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a new key and of its tenant. None: as it is, or as by default."""

    tenant: str
    scopes: frozenset[KeyScope] | None = None
    expires: datetime | None = None
    models: tuple[str, ...] | None = None
    weight: float | None = None
    highest_class: ServiceClass | None = None
    limits: Limits = field(default_factory=Limits)


def with_new_key(file: KeysFile, wanted: Wanted) -> tuple[KeysFile, str]:
    """The file with one key more, and that key. A new tenant is added; one that is there is
    changed as wanted. ValueError for a bad name or value.
    """
    key = new_key()
    before = file.tenants.get(wanted.tenant, Tenant())
    changed = wanted.limits.model_dump(exclude_none=True)
    if wanted.models is not None:
        changed["models"] = wanted.models
    if wanted.weight is not None:
        changed["weight"] = wanted.weight
    if wanted.highest_class is not None:
        changed["highest_class"] = wanted.highest_class
    added = Key(
        sha256=digest_of(key),
        expires=wanted.expires,
        **({} if wanted.scopes is None else {"scopes": wanted.scopes}),
    )
    tenant = before.model_copy(update={**changed, "keys": (*before.keys, added)})
    return _with_tenant(file, wanted.tenant, tenant), key


def without_key(file: KeysFile, key_id: str) -> KeysFile:
    """The file without one key. Its tenant stays. Raises UnknownKey."""
    name, key = find(file, key_id)
    tenant = file.tenants[name]
    left = tuple(one for one in tenant.keys if one.sha256 != key.sha256)
    return _with_tenant(file, name, tenant.model_copy(update={"keys": left}))


def with_rotated_key(file: KeysFile, key_id: str, until: datetime) -> tuple[KeysFile, str]:
    """The file with a key more like the one named, which is good until `until` at most; and the
    new key, which does not expire. Raises UnknownKey.
    """
    name, old = find(file, key_id)
    with_new, text = with_new_key(file, Wanted(name, scopes=old.scopes))
    tenant = with_new.tenants[name]
    last = until if old.expires is None else min(until, old.expires)
    ending = old.model_copy(update={"expires": last})
    keys = tuple(ending if one.sha256 == old.sha256 else one for one in tenant.keys)
    return _with_tenant(with_new, name, tenant.model_copy(update={"keys": keys})), text


def find(file: KeysFile, key_id: str) -> tuple[str, Key]:
    """The one key whose id begins so, after its tenant's name. Raises UnknownKey."""
    held = [(name, key) for name, tenant in file.tenants.items() for key in tenant.keys]
    found = [(name, key) for name, key in held if key_id and key.sha256.startswith(key_id.lower())]
    if len(found) > 1:
        ids = ", ".join(key.id for _, key in found)
        raise UnknownKey(f"key {key_id!r} could be any of {ids}")
    if not found:
        raise UnknownKey(f"there is no key {key_id!r}: `expertpool keys list` shows all")
    return found[0]


def _with_tenant(file: KeysFile, name: str, tenant: Tenant) -> KeysFile:
    """Checked as if it were read."""
    changed = file.model_copy(update={"tenants": {**file.tenants, name: tenant}})
    return KeysFile.model_validate(changed.model_dump())
