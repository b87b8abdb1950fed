"""What a dashboard is: panels with queries, as values. Knows no metric and no Grafana."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["short", "reqps", "s", "percentunit", "bytes", "bool_yes_no", "ops", "cps"]
"""As Grafana calls them."""


@dataclass(frozen=True, slots=True)
class Query:
    """legend: with labels in double braces, as Grafana fills them in."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """is_now: one number for each series, the last one, instead of lines over time.

    stacked: lines add up.
    """

    title: str
    unit: Unit
    queries: tuple[Query, ...]
    is_now: bool = False
    stacked: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label of a metric."""

    name: str
    metric: str
    label: str
    has_all: bool = True


@dataclass(frozen=True, slots=True)
class Dashboard:
    """uid: names it in Grafana, and its file.   rows: titles and panels."""

    uid: str
    title: str
    variables: tuple[Variable, ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for _, panels in self.rows for panel in panels)
