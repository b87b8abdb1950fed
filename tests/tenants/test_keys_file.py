"""What a keys file may say, and how it is refused."""

from datetime import UTC, datetime

import pytest

from serve_app.tenants.errors import BadKeys
from serve_app.tenants.key_text import digest_of, id_of, new_key
from serve_app.tenants.keyring import Keyring
from serve_app.tenants.keys_file import KeyScope, KeysFile

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def file(key: str, **more: object) -> KeysFile:
    tenant = {"keys": [{"sha256": digest_of(key), **more}]}
    return KeysFile.model_validate({"tenants": {"acme": tenant}})


def test_a_key_has_256_random_bits_and_its_file_only_the_digest() -> None:
    key = new_key()
    assert key.startswith("sk-ep-")
    assert len(key) == len("sk-ep-") + 43  # 32 bytes in base64, without padding
    assert key != new_key()
    assert key not in file(key).text()


def test_a_key_is_found_until_it_expires_and_no_other_is() -> None:
    keyring = Keyring(file("sk-ep-one", expires="2026-12-01"))
    caller = keyring.caller("sk-ep-one", NOW)
    assert caller is not None
    assert (caller.name, set(caller.scopes)) == ("acme", {KeyScope.INFER})
    assert caller.key_id == id_of(digest_of("sk-ep-one"))
    assert keyring.caller("sk-ep-one", datetime(2026, 12, 1, tzinfo=UTC)) is None
    assert keyring.caller("sk-ep-on", NOW) is None
    assert keyring.caller("", NOW) is None
    assert keyring.caller("\udcff", NOW) is None


def test_what_is_written_reads_back_equal_as_yaml_and_as_json() -> None:
    tenant = {
        "models": ["news-*", "code"],
        "weight": 2.5,
        "highest_class": "standard",
        "requests_per_minute": 3,
        "keys": [
            {"sha256": "a" * 64, "scopes": ["metrics", "admin"], "expires": "2027-01-01"},
            {"sha256": "b" * 64},
        ],
    }
    whole = KeysFile.model_validate({"tenants": {"acme": tenant}})
    assert KeysFile.parse(whole.text(), "f") == whole
    assert KeysFile.parse(whole.model_dump_json(), "f") == whole
    assert KeysFile.parse("", "f") == KeysFile()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tenants: {acme: {rpm: 3}}", "tenants.acme.rpm: Extra inputs are not permitted"),
        ("tenants: {acme: {weight: 0}}", "tenants.acme.weight"),
        ("tenants: {acme: {highest_class: urgent}}", "tenants.acme.highest_class"),
        ("tenants: {acme: {weight: .inf}}", "tenants.acme.weight"),
        ("tenants: {a/b: {}}", "tenant 'a/b': a letter or digit"),
        ("tenants: {acme: {keys: [{sha256: sk-ep-secret}]}}", "tenants.acme.keys.0.sha256"),
        ("tenants: {acme: {keys: [{sha256: %s, scopes: []}]}}" % ("a" * 64), "scopes"),
        ("tenants: {acme: {requests_per_minute: 0}}", "requests_per_minute"),
        (
            "tenants: {{a: {{keys: [{{sha256: {0}}}]}}, b: {{keys: [{{sha256: {0}}}]}}}}".format(
                "a" * 64
            ),
            "tenant 'b': key aaaaaaaaaaaa is also tenant 'a'",
        ),
        ("tenants: [", "neither YAML nor JSON"),
        ("tenants: " + "[" * 5000, "neither YAML nor JSON"),
        ("- 1", "keys file f"),
        ("tenants: !!python/object:os.system {}", "neither YAML nor JSON"),
    ],
)
def test_a_broken_file_is_refused_with_its_place_and_without_its_secrets(
    text: str, words: str
) -> None:
    with pytest.raises(BadKeys) as refused:
        KeysFile.parse(text, "f")
    assert "keys file f" in str(refused.value)
    assert words in str(refused.value)
    assert "sk-ep-secret" not in str(refused.value)


def test_names_and_globs_say_which_models_a_tenant_may_use() -> None:
    text = "tenants: {acme: {models: ['news-*', code]}, bob: {}}"
    tenants = KeysFile.parse(text, "f").tenants
    may = [m for m in ("news-1", "code", "code2", "Code", "chat") if tenants["acme"].may_use(m)]
    assert may == ["news-1", "code"]
    assert tenants["bob"].may_use("anything")
