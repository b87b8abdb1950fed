"""Parses what is chosen for a benchmark: the values of its axes, and its rows."""

from collections.abc import Collection, Sequence
from typing import TypeVar

import typer

T = TypeVar("T")

DENSE = "dense"
"""The format of slots by default: as their module has them."""
NOTHING = "none"
"""As a residual: a release without residuals."""


def parse_counts(values: str, *, hint: str) -> list[int]:
    """Whole numbers: `1,2,4`.

    Raises:
        typer.BadParameter: one is not a number, is 0, or is given twice.
    """
    found: list[int] = []
    for value in values.split(","):
        if not (value.isascii() and value.isdigit() and int(value) > 0):
            raise typer.BadParameter(
                f"{value!r} is not a whole number, at least 1", param_hint=hint
            )
        if int(value) in found:
            raise typer.BadParameter(f"{value} is given twice", param_hint=hint)
        found.append(int(value))
    return found


def parse_choices(values: str, known: Sequence[str], *, hint: str) -> list[str]:
    """Some of the known words, in the order given.

    Raises:
        typer.BadParameter: one is not.
    """
    return chosen(list(dict.fromkeys(values.split(","))), known, hint=hint)


def chosen(wanted: Sequence[str] | None, known: Collection[str], *, hint: str) -> list[str]:
    """Those that are wanted; all where nothing is said.

    Raises:
        typer.BadParameter: one is not known.
    """
    for value in wanted or ():
        if value not in known:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=hint)
    return list(wanted or known)


def parse_slots(values: str, *, hint: str) -> list[str]:
    """Labels of formats that slots may have, or a slot's parts for single matrices.

    As in `dense,packed-4-128,packed-3-128@gate_up_proj+packed-4-128@down_proj`.

    Raises:
        typer.BadParameter: one is not.
    """
    found = list(dict.fromkeys(values.split(",")))
    for label in (label for value in found for label in value.split("+")):
        _require_format(label.partition("@")[0], hint, residual=False)
    return found


def parse_residuals(values: str, *, hint: str) -> list[tuple[str, ...]]:
    """Formats of the residuals of each release: `none,packed-1-128,rank-8+packed-1-128`.

    Raises:
        typer.BadParameter: one is not a format of residuals, or a release has one twice.
    """
    found: list[tuple[str, ...]] = []
    for value in dict.fromkeys(values.split(",")):
        labels = () if value == NOTHING else tuple(value.split("+"))
        for label in labels:
            _require_format(label, hint, residual=True)
        if len(set(labels)) < len(labels):
            raise typer.BadParameter(f"{value!r} has one format twice", param_hint=hint)
        found.append(labels)
    return found


def only(found: list[T], *, hint: str) -> T:
    """The one value of an option that takes one. Raises: typer.BadParameter if there are more."""
    if len(found) > 1:
        raise typer.BadParameter("give one, not several", param_hint=hint)
    return found[0]


def _require_format(label: str, hint: str, *, residual: bool) -> None:
    from representation.formats import format_of

    try:
        fmt = format_of(label)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error
    if not fmt.stands_as(residual=residual):
        noun = "residual" if residual else "slot"
        raise typer.BadParameter(f"{label!r}: a {noun} is never {fmt.kind}", param_hint=hint)
