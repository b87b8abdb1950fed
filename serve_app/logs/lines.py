"""How a log record is written: as text for people, or as an object of JSON for collectors."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from serve_app.logs.about import FACTS

LogFormat = Literal["text", "json"]
LONGEST_BYTES = 4000
"""What a pipe takes as one piece, nearly: a line that is not longer is not mixed with others'."""
_LONGEST_WORDS = 1000


class TextLines(logging.Formatter):
    """Time, level, logger, words, and then the facts as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, FACTS, {})
        told = "".join(f" {name}={json.dumps(value)}" for name, value in facts.items())
        return super().format(record) + told


class JsonLines(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `process` (engine or ingress), `logger`, `event`,
    and the facts.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        words = record.getMessage()
        if record.exc_info:
            words += "\n" + self.formatException(record.exc_info)
        line = self._line(record, words)
        if len(line) > LONGEST_BYTES:  # ASCII alone: as many bytes
            line = self._line(record, words[:_LONGEST_WORDS] + " …")
        return line

    def _line(self, record: logging.LogRecord, words: str) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found: dict[str, Any] = {
            "time": at,
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "event": words,
            **getattr(record, FACTS, {}),
        }
        return json.dumps(found, separators=(",", ":"), default=str)


def formatter_of(form: LogFormat, process: str) -> logging.Formatter:
    """process: which one writes, `engine` or `ingress`."""
    return JsonLines(process) if form == "json" else TextLines()
