"""Which steps to measure. Refuses what cannot be measured before anything is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve_app.bench.step.session import decode_tokens
from serve_app.errors import ConfigError

PHASES = ("decode", "prefill")


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One step of `sequences` sequences of `models` models, each `context` tokens long.

    decode: one more token each, after that context.   prefill: the whole context at once.
    """

    phase: str
    models: int
    sequences: int
    context: int

    @property
    def num_tokens(self) -> int:
        """Tokens computed in the step."""
        return self.sequences * (self.context if self.phase == "prefill" else 1)


@dataclass(frozen=True, slots=True)
class Variant:
    """What an engine is built with: places for backbones, and how experts are stored."""

    places: int
    parts: str
    residuals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """models: of the release.   context: the most tokens of a sequence.   step_tokens: of a step.

    num_steps: how many are timed at each point.
    """

    models: int
    context: int
    step_tokens: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The values of each axis; every combination that makes sense is a point."""

    phases: Sequence[str]
    models: Sequence[int]
    sequences: Sequence[int]
    contexts: Sequence[int]

    def points(self, limit: Limit) -> list[GridPoint]:
        """All points in order. A step has at least one sequence per model; a prefill is one step.

        Raises: ConfigError, naming it, for a value that no point could have.
        """
        _require_possible("models", self.models, limit.models, "models that there are")
        for context in self.contexts:
            self._require_context(context, limit)
        points = [
            GridPoint(phase, models, sequences, context)
            for phase in self.phases
            for context in self.contexts
            for sequences in self.sequences
            for models in self.models
            if sequences >= models
        ]
        fitting = [point for point in points if point.num_tokens <= limit.step_tokens]
        self._require_used(fitting, limit)
        return fitting

    def _require_context(self, context: int, limit: Limit) -> None:
        most = max(self.sequences)
        more = 1
        if "decode" in self.phases:
            more = decode_tokens(most, context, limit.num_steps, limit.step_tokens)
        if context + more > limit.context:
            raise ConfigError(
                f"context {context}: with {more} more tokens to measure, "
                f"it exceeds the {limit.context} that a sequence may have"
            )

    def _require_used(self, points: Sequence[GridPoint], limit: Limit) -> None:
        for models in self.models:
            if not any(point.models == models for point in points):
                raise ConfigError(
                    f"models {models}: no step of at most {limit.step_tokens} tokens "
                    f"has that many sequences (sequences: {_listed(self.sequences)})"
                )
        for phase in self.phases:
            if not any(point.phase == phase for point in points):
                raise ConfigError(
                    f"{phase}: every step would have more than {limit.step_tokens} tokens "
                    f"(sequences: {_listed(self.sequences)}; context: {_listed(self.contexts)})"
                )
        for sequences in self.sequences:
            if not any(point.sequences == sequences for point in points):
                raise ConfigError(
                    f"sequences {sequences}: no step of at most {limit.step_tokens} tokens has "
                    f"them, of {_listed(self.models)} models and {_listed(self.contexts)} tokens"
                )


def require_places(places: Sequence[int], models: Sequence[int], num_models: int) -> None:
    """Raises: ConfigError if there are fewer places than models in a step, or more than models."""
    for number in places:
        if number < max(models):
            raise ConfigError(f"places {number}: a step needs {max(models)} models")
    _require_possible("places", places, num_models, "models that there are")


def models_of(point: GridPoint, names: Sequence[str]) -> Iterator[str]:
    """The model of each sequence of a point, spread evenly."""
    return (names[number % point.models] for number in range(point.sequences))


def _require_possible(axis: str, values: Sequence[int], most: int, what: str) -> None:
    for value in values:
        if not 1 <= value <= most:
            raise ConfigError(f"{axis} {value}: it is 1 to {most}, the {what}")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
