"""Reads usage records back and sums them. Writes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from consolidation.release.storage import Storage
from serve_app.tenants.limits.months import start_of
from serve_app.tenants.usage_record import UsageRecord

KEYS = ("tenant", "key", "model", "answered_by", "release", "day", "status")
"""What records can be summed by."""


_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class UsageSum:
    """Of the records that agree in what was asked."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0

    def add(self, record: UsageRecord) -> None:
        self.requests += 1
        self.prompt_tokens += record.prompt_tokens
        self.cached_tokens += record.cached_tokens
        self.answer_tokens += record.answer_tokens


def records(storage: Storage, start: datetime, end: datetime) -> Iterator[UsageRecord]:
    """Those from `start` until before `end`. ValueError, which names file and line, for a bad one.

    A record is in the file of the minute in which it was written, so a request may have begun on an
    earlier day than its file's.
    """
    for day in storage.names(""):
        if not _may_hold(day, start):
            continue
        for name in storage.names(day):
            path = f"{day}/{name}"
            content = storage.read(path) if name.endswith(".jsonl") else None
            for number, line in enumerate((content or b"").splitlines(), start=1):
                try:
                    record = UsageRecord.of_line(line.decode())
                except ValueError as error:
                    raise ValueError(f"{storage.name(path)}, line {number}: {error}") from error
                if start <= record.at < end:
                    yield record


def summed(found: Iterable[UsageRecord], by: Sequence[str]) -> dict[tuple[str, ...], UsageSum]:
    """By the values of some of KEYS, in order of those."""
    sums: dict[tuple[str, ...], UsageSum] = {}
    for record in found:
        sums.setdefault(tuple(_value(record, key) for key in by), UsageSum()).add(record)
    return dict(sorted(sums.items()))


def spent_in(storage: Storage, month: str) -> dict[str, int]:
    """Tokens of prompts and answers in a month such as `2026-11` (UTC), by tenant.

    ValueError as `records`.
    """
    by_tenant = summed(records(storage, start_of(month), _LAST), ("tenant",))
    return {name: one.prompt_tokens + one.answer_tokens for (name,), one in by_tenant.items()}


def _value(record: UsageRecord, key: str) -> str:
    if key == "day":
        return f"{record.at.astimezone(UTC):%Y-%m-%d}"
    value = getattr(record, key)
    return "" if value is None else str(value)


def _may_hold(day: str, start: datetime) -> bool:
    """Whether files of that day may have records from `start` on."""
    try:
        return start.astimezone(UTC).date() - date.fromisoformat(day) <= timedelta(days=1)
    except ValueError:
        return False  # not ours
