"""What a benchmark found: rows of one kind, where and with which settings. A value."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serve_app.bench.result.environment import Environment


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark's outcome.

    kind: the command's name.   settings: what was asked for, including defaults.
    rows: one per point, model, arm or bar.   facts: what is said once, for all rows.
    noun: what the rows are called in JSON.
    """

    kind: str
    environment: Environment
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    noun: str = "rows"

    def to_json(self) -> dict[str, Any]:
        """As one object of plain values. The writer deals with numbers that are not finite."""
        return {
            "kind": self.kind,
            "environment": asdict(self.environment),
            "settings": dict(self.settings),
            **self.facts,
            self.noun: [dict(row) for row in self.rows],
        }
