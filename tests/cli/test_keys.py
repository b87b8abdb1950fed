"""The `keys` commands: a key is printed once, and only its digest is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.cli.main import run
from serve_app.tenants.key_text import digest_of, id_of
from serve_app.tenants.keys_file import KeysFile, Limits
from serve_app.tenants.keys_store import KeysStore


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "keys.yaml")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["keys", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def listed(capsys: pytest.CaptureFixture[str], address: str) -> dict[str, dict[str, object]]:
    code, out, err = call(capsys, "list", "--keys", address, "--json")
    assert (code, err) == (0, "")
    tenants: dict[str, dict[str, object]] = json.loads(out)["tenants"]
    return tenants


def test_a_new_key_is_all_of_stdout_and_the_file_has_its_digest(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    options = ("--model", "news-*", "--rpm", "5", "--scope", "infer", "--scope", "metrics")
    code, out, err = call(capsys, "new", "--tenant", "acme", "--keys", address, *options)
    key = out.strip()
    assert code == 0
    assert out == f"{key}\n"
    assert "shown only now" in err
    assert key not in Path(address).read_text() + err
    tenant = listed(capsys, address)["acme"]
    assert (tenant["models"], tenant["requests_per_minute"]) == (["news-*"], 5)
    assert tenant["keys"] == [
        {
            "id": id_of(digest_of(key)),
            "scopes": ["infer", "metrics"],
            "expires": None,
            "has_expired": False,
        }
    ]


def test_a_key_is_rotated_and_revoked_by_its_id(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    key = call(capsys, "new", "--tenant", "acme", "--keys", address)[1].strip()
    name = id_of(digest_of(key))
    code, out, err = call(capsys, "rotate", name[:8], "--keys", address, "--overlap", "0s")
    assert code == 0
    assert "good until" in err
    keys = listed(capsys, address)["acme"]["keys"]
    assert isinstance(keys, list)
    assert [one["has_expired"] for one in keys] == [True, False]
    assert call(capsys, "revoke", name, "--keys", address)[:2] == (
        0,
        f"revoked key {name} of tenant acme\n",
    )
    (left,) = (one["id"] for one in listed(capsys, address)["acme"]["keys"])  # type: ignore[attr-defined]
    assert left == id_of(digest_of(out.strip()))


def test_a_key_that_ends_before_the_overlap_is_said_to_end_then(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    made = call(capsys, "new", "--tenant", "acme", "--keys", address, "--expires", "2020-01-31")
    name = id_of(digest_of(made[1].strip()))
    err = call(capsys, "rotate", name, "--keys", address, "--overlap", "24h")[2]
    assert f"key {name} is good until 2020-01-31 00:00 UTC" in " ".join(err.split())


def test_the_key_that_is_printed_is_the_one_that_was_written_after_others_changed_the_file(
    capsys: pytest.CaptureFixture[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = KeysStore.change

    def overtaken(self: KeysStore, by: Callable[[KeysFile], KeysFile]) -> KeysFile:
        by(KeysFile())  # another writer was faster than this
        return change(self, by)

    monkeypatch.setattr(KeysStore, "change", overtaken)
    key = call(capsys, "new", "--tenant", "acme", "--keys", address)[1].strip()
    assert digest_of(key) in Path(address).read_text()


def test_a_pattern_with_brackets_is_listed_as_it_is(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    call(
        capsys, "new", "--tenant", "acme", "--keys", address, "--model", "n-[ab]", "--model", "[/]"
    )
    assert "n-[ab], [/]" in call(capsys, "list", "--keys", address)[1]


def test_the_list_shows_who_may_do_what(capsys: pytest.CaptureFixture[str], address: str) -> None:
    call(capsys, "new", "--tenant", "acme", "--keys", address, "--weight", "2", "--tpm", "70")
    call(capsys, "new", "--tenant", "old", "--keys", address, "--expires", "2020-01-31")
    call(capsys, "new", "--tenant", "acme", "--keys", address, "--highest-class", "standard")
    code, out, _ = call(capsys, "list", "--keys", address)
    assert code == 0
    for words in (
        "acme",
        "always",
        "weight 2",
        "70 tokens/min",
        "at most standard",
        "2020-01-31 00:00 (ended)",
    ):
        assert words in out


def test_every_limit_can_be_set_and_is_listed(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    given = {
        "--rpm": "requests_per_minute",
        "--tpm": "tokens_per_minute",
        "--monthly-tokens": "monthly_tokens",
        "--concurrent": "concurrent_requests",
        "--prompt-tokens": "prompt_tokens",
        "--answer-tokens": "answer_tokens",
        "--open-choices": "open_choices",
        "--open-tokens": "open_tokens",
    }
    assert set(given.values()) == set(Limits.model_fields)
    options = [word for number, name in enumerate(given, 11) for word in (name, str(number))]
    assert call(capsys, "new", "--tenant", "acme", "--keys", address, *options)[0] == 0
    tenant = listed(capsys, address)["acme"]
    assert [tenant[field] for field in given.values()] == list(range(11, 19))
    out = call(capsys, "list", "--keys", address)[1]
    assert all(str(number) in out for number in range(11, 19))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "--tenant", "a/b"), "'a/b' is not a name"),
        (("new", "--tenant", "a", "--scope", "root"), "'root' is not a scope: admin, infer"),
        (
            ("new", "--tenant", "a", "--highest-class", "urgent"),
            "Invalid value for '--highest-class': 'urgent' is not one of",
        ),
        (("new", "--tenant", "a", "--expires", "soon"), "'soon' is not a date"),
        (("new", "--tenant", "a", "--rpm", "0"), "'0' is less than 1"),
        (("new", "--tenant", "a", "--weight", "-1"), "'-1' is not more than 0"),
        (("list",), "there is no such file"),
        (("revoke", "abc"), "there is no key 'abc'"),
        (("rotate", "abc", "--overlap", "long"), "'long' is not a time such as 30m"),
        (("rotate", "abc", "--overlap", "9999999d"), "'9999999d' is more than 36500d"),
    ],
)
def test_wrong_use_is_named_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], address: str, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = call(capsys, *arguments, "--keys", address)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert not Path(address).exists()
