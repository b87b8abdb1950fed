"""`expertpool usage` sums records as asked."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serve_app.cli.main import run
from serve_app.tenants.usage_log import UsageLog
from serve_app.tenants.usage_record import UsageRecord, stamp

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def kept(tmp_path: Path) -> str:
    log = UsageLog(str(tmp_path), "one", lambda: NOON)
    for tenant, model in (("acme", "a"), ("acme", "b"), ("bob", "a"), ("acme", "a")):
        log.add(
            UsageRecord(
                time=stamp(NOON),
                request="r",
                tenant=tenant,
                key="k",
                model=model,
                prompt_tokens=10,
                answer_tokens=5,
                status=200,
            )
        )
    log.close()
    return str(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["usage", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_requests_and_tokens_are_summed_by_tenant_and_model(
    capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    code, out, err = call(capsys, kept, "--from", "2026-11-28", "--csv")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "tenant,model,requests,prompt_tokens,cached_tokens,answer_tokens",
        "acme,a,2,20,0,10",
        "acme,b,1,10,0,5",
        "bob,a,1,10,0,5",
    ]
    code, out, _ = call(capsys, kept, "--from", "2026-11-28", "--by", "tenant", "--json")
    assert [(one["tenant"], one["requests"]) for one in json.loads(out)["usage"]] == [
        ("acme", 3),
        ("bob", 1),
    ]
    code, out, _ = call(capsys, kept, "--from", "2026-11-28", "--by", "day,status")
    assert out.split()[-6:] == ["2026-11-28", "200", "4", "40", "0", "20"]


def test_the_first_day_there_is_asks_for_all_records(
    capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    code, out, err = call(capsys, kept, "--from", "0001-01-01", "--by", "tenant", "--csv")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 3


def test_a_time_without_records_is_said(capsys: pytest.CaptureFixture[str], kept: str) -> None:
    code, out, _ = call(capsys, kept, "--from", "2026-11-01", "--to", "2026-11-28")
    assert code == 0
    assert "no records" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "x"), "'x' is not a date"),
        (("--from", "2026-11-28", "--to", "2026-11-01"), "is not after"),
        (("--from", "2026-11-28", "--by", "tenant,colour"), "'colour' is not one of tenant"),
        (("--from", "2026-11-28", "--by", "day,day"), "each at most once"),
    ],
)
def test_wrong_use_is_named(
    capsys: pytest.CaptureFixture[str], kept: str, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = call(capsys, kept, *arguments)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())


def test_a_directory_that_is_not_there_is_not_one_without_records(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = call(capsys, str(tmp_path / "misspelt"), "--from", "2026-11-28")
    assert (code, out) == (2, "")
    assert "no such directory" in err
