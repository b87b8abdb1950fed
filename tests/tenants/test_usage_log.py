"""Usage records are written in time, kept while they cannot be, and read back."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consolidation.release.errors import StorageFailed
from consolidation.release.storage import open_storage
from serve_app.tenants import usage_log
from serve_app.tenants.usage_log import UsageLog
from serve_app.tenants.usage_record import UsageRecord, stamp
from serve_app.tenants.usage_sums import records, summed

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def record(number: int = 0, at: datetime = NOON, **more: object) -> UsageRecord:
    facts = {"tenant": "acme", "key": "k", "prompt_tokens": 3, "answer_tokens": 2, **more}
    return UsageRecord(time=stamp(at.timestamp()), request=f"r{number}", **facts)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_log, "EVERY_S", 0.02)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., UsageLog]:
    return lambda at=NOON: UsageLog(str(tmp_path), "one", at.timestamp)


def read(directory: Path, start: datetime = NOON - timedelta(days=9)) -> list[UsageRecord]:
    return list(records(open_storage(str(directory)), start, NOON + timedelta(days=9)))


def test_what_was_added_is_read_back_in_order(
    tmp_path: Path, opened: Callable[..., UsageLog]
) -> None:
    log, added = opened(), [record(n, model="m", finish="stop", queue_s=0.25) for n in range(500)]
    for each in added:
        log.add(each)
    log.close()
    assert read(tmp_path) == added
    assert [path.name for path in tmp_path.glob("*/*")] == ["12-00-one.jsonl"]


def test_records_are_there_before_the_log_is_closed(
    tmp_path: Path, opened: Callable[..., UsageLog]
) -> None:
    log = opened()
    for number in range(2):
        log.add(record(number))
        limit = time.monotonic() + 10
        while len(read(tmp_path)) <= number and time.monotonic() < limit:
            time.sleep(0.01)
    assert [each.request for each in read(tmp_path)] == ["r0", "r1"]
    log.close()


def test_records_are_kept_while_the_storage_fails(
    tmp_path: Path,
    opened: Callable[..., UsageLog],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = opened()
    write, calls = log._storage.write, list[int]()

    def full(path: str, data: bytes) -> None:
        calls.append(len(data))
        if len(calls) < 4:
            raise StorageFailed("no space left")
        write(path, data)

    monkeypatch.setattr(log._storage, "write", full)
    for number in range(5):
        log.add(record(number))
        time.sleep(0.01)
    limit = time.monotonic() + 10
    while not read(tmp_path) and time.monotonic() < limit:
        time.sleep(0.01)
    log.close()
    assert [each.request for each in read(tmp_path)] == [f"r{number}" for number in range(5)]
    assert [r.getMessage() for r in caplog.records] == [
        "usage records are kept in memory: no space left"
    ]
    assert log.num_lost == 0


def test_what_is_dropped_when_nothing_can_be_written_for_too_long_is_counted(
    opened: Callable[..., UsageLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFailed("no space left")

    monkeypatch.setattr(usage_log, "MOST_KEPT", 3)
    log = opened()
    monkeypatch.setattr(log._storage, "write", full)
    for number in range(5):
        log.add(record(number))
    log.close()
    assert log.num_lost == 2


def test_sums_are_of_the_time_asked_and_by_what_was_asked(tmp_path: Path) -> None:
    days = [NOON + timedelta(days=number) for number in range(3)]
    for day in days:
        log = UsageLog(str(tmp_path), f"{day:%d}", day.timestamp)
        for model in ("a", "b", "a"):
            log.add(record(at=day, model=model, cached_tokens=1))
        log.close()
    (tmp_path / "notes").mkdir()
    found = records(open_storage(str(tmp_path)), days[1], days[2])
    sums = summed(found, ("tenant", "model"))
    assert {key: (one.requests, one.prompt_tokens) for key, one in sums.items()} == {
        ("acme", "a"): (2, 6),
        ("acme", "b"): (1, 3),
    }
    by_day = summed(read(tmp_path), ("day",))
    assert list(by_day) == [("2026-11-28",), ("2026-11-29",), ("2026-11-30",)]
    assert {one.cached_tokens for one in by_day.values()} == {3}


def test_a_record_belongs_to_the_day_on_which_its_request_came(tmp_path: Path) -> None:
    came = NOON.replace(hour=23, minute=59)
    log = UsageLog(str(tmp_path), "one", (came + timedelta(minutes=5)).timestamp)
    log.add(record(at=came))
    log.close()
    assert len(read(tmp_path, came)) == 1
    assert list(summed(read(tmp_path), ("day",))) == [("2026-11-28",)]


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"tenant": "x"}', b'{"time": "x"}', b"\xff"])
def test_a_line_that_is_no_record_is_named_with_its_file(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "2026-11-28").mkdir()
    (tmp_path / "2026-11-28" / "12-00-x.jsonl").write_bytes(record().line().encode() + line)
    with pytest.raises(ValueError, match=r"12-00-x\.jsonl, line 2: "):
        read(tmp_path)
