"""Adding, revoking and rotating keys."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.tenants.errors import BadKeys, UnknownKey
from serve_app.tenants.key_changes import Wanted, with_new_key, with_rotated_key, without_key
from serve_app.tenants.key_text import digest_of
from serve_app.tenants.keyring import Keyring
from serve_app.tenants.keys_file import KeyScope, KeysFile, Limits
from serve_app.tenants.keys_store import KeysStore

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def test_a_new_key_keeps_what_is_not_said_of_its_tenant() -> None:
    file, first = with_new_key(
        KeysFile(),
        Wanted("acme", models=("a*",), weight=2.0, limits=Limits(requests_per_minute=9)),
    )
    file, second = with_new_key(file, Wanted("acme", limits=Limits(tokens_per_minute=7)))
    tenant = file.tenants["acme"]
    assert (tenant.models, tenant.weight) == (("a*",), 2.0)
    assert (tenant.requests_per_minute, tenant.tokens_per_minute) == (9, 7)
    assert [key.sha256 for key in tenant.keys] == [digest_of(first), digest_of(second)]


def test_a_revoked_key_is_nobodys_and_its_tenant_stays() -> None:
    file, key = with_new_key(KeysFile(), Wanted("acme", weight=3.0))
    left = without_key(file, digest_of(key)[:6])
    assert Keyring(left).caller(key, NOW) is None
    assert left.tenants["acme"].weight == 3.0


def test_both_keys_are_good_while_a_rotation_lasts_and_the_new_one_after_it() -> None:
    file, old = with_new_key(KeysFile(), Wanted("acme", scopes=frozenset({KeyScope.ADMIN})))
    until = NOW + timedelta(hours=24)
    rotated, new = with_rotated_key(file, digest_of(old)[:12], until)
    keyring = Keyring(rotated)
    for key in (old, new):
        caller = keyring.caller(key, until - timedelta(seconds=1))
        assert caller is not None
        assert caller.scopes == {KeyScope.ADMIN}
    assert keyring.caller(old, until) is None
    assert keyring.caller(new, until + timedelta(days=365)) is not None


def test_a_rotation_does_not_lengthen_a_key_that_ends_sooner() -> None:
    soon = NOW + timedelta(hours=1)
    file, old = with_new_key(KeysFile(), Wanted("acme", expires=soon))
    rotated, _ = with_rotated_key(file, digest_of(old), NOW + timedelta(days=7))
    assert rotated.tenants["acme"].keys[0].expires == soon


@pytest.mark.parametrize("wanted", ["", "zz", "a"])
def test_no_key_or_several_are_refused_by_name(wanted: str) -> None:
    text = "tenants: {{t: {{keys: [{{sha256: {}}}, {{sha256: {}}}]}}}}"
    file = KeysFile.parse(text.format("a" * 64, "ab" * 32), "f")
    with pytest.raises(UnknownKey, match="could be any of" if wanted == "a" else "there is no key"):
        without_key(file, wanted)


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    store = KeysStore(str(tmp_path / "keys.yaml"))
    store.change(lambda file: with_new_key(file, Wanted("acme"))[0])
    before = store.text()
    with pytest.raises(UnknownKey):
        store.change(lambda file: without_key(file, "zz"))
    assert store.text() == before
    (tmp_path / "keys.yaml").write_text("tenants: [")
    with pytest.raises(BadKeys, match="neither YAML nor JSON"):
        store.change(lambda file: with_new_key(file, Wanted("acme"))[0])
    assert store.text() == "tenants: ["


def test_a_file_that_is_not_there_is_made_by_a_change_and_refused_by_reading(
    tmp_path: Path,
) -> None:
    store = KeysStore(str(tmp_path / "made" / "keys.yaml"))
    with pytest.raises(BadKeys, match="there is no such file"):
        store.read()
    store.change(lambda file: with_new_key(file, Wanted("acme"))[0])
    assert list(store.read().tenants) == ["acme"]
