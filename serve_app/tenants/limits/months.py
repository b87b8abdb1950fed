"""Calendar months in UTC, for budgets. Reads no record."""

from datetime import UTC, datetime


def month_of(moment: datetime) -> str:
    """As `2026-11`."""
    return f"{moment.astimezone(UTC):%Y-%m}"


def start_of(month: str) -> datetime:
    """When it begins."""
    return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)


def seconds_left(now: datetime | None = None) -> float:
    """Until the next month begins."""
    at = (now or datetime.now(UTC)).astimezone(UTC)
    years, month = divmod(at.month, 12)
    following = datetime(at.year + years, month + 1, 1, tzinfo=UTC)
    return (following - at).total_seconds()
