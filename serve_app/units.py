"""Numbers of bytes, for people (`engine/settings.py` parses them), and times without a zone."""

from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(num_bytes: int) -> str:
    """A number of bytes for people: `1.50 GiB`."""
    value = float(num_bytes)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{num_bytes} B" if unit == "B" else f"{value:.2f} {unit}"


def in_utc(moment: datetime) -> datetime:
    """A time without a zone is one of UTC; others stay as they are."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
