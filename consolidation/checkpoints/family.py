"""The models of one release, opened and checked to be of one family. Reads no weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from consolidation.checkpoints.checkpoint import Checkpoint, ExpertsSource, ModelFiles
from consolidation.checkpoints.not_served import in_words
from consolidation.checkpoints.notes import Note, log_note
from consolidation.errors import Refused
from consolidation.release import Manifest, Registry
from consolidation.release.manifest import Dtype
from representation.architecture.family_fields import config_differences
from representation.formats import ExpertShape
from representation.step_reads import DecodeStep

NAMED_AT_MOST = 8
BASE = "(base)"
"""What the base is called beside the models; no model may have that name."""


@dataclass(frozen=True, slots=True)
class Family:
    """New checkpoints by name, sorted; the release that they extend, and its models that stay.

    `base` is what the new models were tuned from, where that is known. `stand_ins` says, by model,
    whose tensors and experts are read in place of its own; `originals` are those models without.
    """

    checkpoints: Mapping[str, Checkpoint]
    kept: tuple[str, ...]
    extended: Manifest | None
    base: Checkpoint | None = None
    stand_ins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    originals: Mapping[str, Checkpoint] = field(default_factory=dict)

    @property
    def modules(self) -> list[str]:
        """The experts modules, by layer."""
        if self.extended is not None:
            return [layer.module for layer in self.extended.layers]
        return [layer.module for layer in self._first.experts]

    @property
    def architecture(self) -> str:
        """The transformers class of all models."""
        return self.extended.architecture if self.extended else self._first.architecture

    @property
    def dtype(self) -> Dtype:
        """The dtype of all models' experts."""
        return self.extended.dtype if self.extended else self._first.dtype

    @property
    def expert_bytes_one_model(self) -> int:
        """Bytes of one model's expert tensors as stored."""
        if self.extended is not None:
            return self.extended.expert_bytes_one_model
        return self._first.expert_bytes

    @property
    def decode_step(self) -> DecodeStep:
        """The step for which bytes are stated and plans are made."""
        return self.extended.decode_step if self.extended else DecodeStep.of(self._first.config)

    @property
    def _first(self) -> Checkpoint:
        return next(iter(self.checkpoints.values()))

    @property
    def models(self) -> tuple[str, ...]:
        """All models of the release, sorted."""
        return tuple(sorted([*self.checkpoints, *self.kept]))

    def shape(self, layer: int) -> ExpertShape:
        """The shape of an expert of one layer. Raises `Refused` where the release cannot tell."""
        for checkpoint in self.checkpoints.values():
            return checkpoint.experts[layer].shape
        if self.extended is None or not self.extended.layers[layer].parameters:
            raise Refused("the release has schema_version 1: it is extended only by adding a model")
        return self.extended.layers[layer].shape

    def layer_bytes(self, layer: int) -> int:
        """Bytes of one layer's experts of all new models."""
        return sum(found.experts[layer].num_bytes for found in self.checkpoints.values())

    def source(self, model: str | None, layer: int) -> ExpertsSource:
        """The source of a new model's experts at one layer; None is the base."""
        if model is None:
            assert self.base is not None
            return self.base.experts[layer]
        return self.checkpoints[model].experts[layer]


def open_family(
    registry: Registry,
    models: Mapping[str, ModelFiles],
    *,
    base: ModelFiles | None,
    extend: str | None,
    remove: Sequence[str],
    opened: Callable[[int], None],
    note: Note = log_note,
) -> Family:
    """Open new models and their base, and check them against each other and the release.

    Models of the release `extend` stay, except those in `remove` and those that are given again.
    Without a base, it is that of the models' adapters. `opened` is told how many of the new models
    are open. Raises `Refused`, `ReleaseError`.
    """
    extended = registry.read_manifest(extend) if extend is not None else None
    checkpoints = {}
    for done, name in enumerate(sorted(models)):
        opened(done)
        checkpoints[name] = models[name].open(note)
    opened(len(models))
    kept: tuple[str, ...] = ()
    if extended is not None:
        for name in remove:
            if name not in extended.models:
                raise Refused(f"release {extend} has no model {name!r} to remove")
        gone = {*remove, *models}
        kept = tuple(name for name in sorted(extended.models) if name not in gone)
    if not kept and not checkpoints:
        raise Refused("no model would be left")
    base = base or _base_of_adapters(models)
    opened_base = base.open(note) if base is not None else None
    family = Family(checkpoints, kept, extended, opened_base)
    _check(family, extend, note)
    _note_not_served(family, note)
    return family


def _note_not_served(family: Family, note: Note) -> None:
    """A line for all models that have the same of it; the base, which nobody asks, is left out."""
    models: dict[str, list[str]] = {}
    for name, found in family.checkpoints.items():
        if found.not_served:
            models.setdefault(in_words(found.not_served), []).append(repr(name))
    for words, names in models.items():
        note(f"not served, and not in the release: {words} of {', '.join(names)}")


def _base_of_adapters(models: Mapping[str, ModelFiles]) -> ModelFiles | None:
    """What all adapters are put on, if that is one checkpoint: slots may hold its experts."""
    adapted = [found for found in models.values() if found.adapter is not None]
    bases = {found.directory.resolve() for found in adapted}
    return replace(adapted[0], adapter=None) if len(bases) == 1 else None


def _check(family: Family, extend: str | None, note: Note) -> None:
    """Raise `Refused` unless configs and experts are those of one family."""
    together: dict[str, Checkpoint] = dict(family.checkpoints)
    if family.base is not None:
        together[BASE] = family.base
    configs = {name: found.config for name, found in together.items()}
    if family.base is not None:  # Its weights are rounded where they are stored.
        configs[BASE] = {**family.base.config, "dtype": family.dtype}
    extended = family.extended
    if extended is not None:
        one = sorted(extended.models)[0]
        configs = {f"{one} of {extend}": extended.models[one].config, **configs}
    check_family(configs, note)
    if together:
        check_layers(together)
    if extended is not None:
        modules = [layer.module for layer in extended.layers]
        for name, found in family.checkpoints.items():
            if [layer.module for layer in found.experts] != modules:
                raise Refused(f"model {name!r} has its experts elsewhere than {extend}")


def check_family(configs: Mapping[str, dict[str, Any]], note: Note = log_note) -> None:
    """Raise `Refused` with the differing fields and both values, unless all are of one family.

    Notes a line for each field whose differences change nothing.
    """
    names = list(configs)
    first = names[0]
    ignored: dict[str, str] = {}
    for name in names[1:]:
        differing: list[str] = []
        for found in config_differences(configs[first], configs[name]):
            line = f"{found.field}: {found.one!r} in {first!r}, {found.other!r} in {name!r}"
            if found.ignored is None:
                # Of other architectures, everything else differs too.
                at = 0 if found.field == "model_type" else len(differing)
                differing.insert(at, f"  {line}")
            else:
                ignored.setdefault(found.field, f"{line}: ignored, {found.ignored}")
        if differing:
            lines = differing[:NAMED_AT_MOST]
            more = len(differing) - NAMED_AT_MOST
            lines += [f"  and {more} more"] if more > 0 else []
            raise Refused(
                f"models {first!r} and {name!r} are not of one family:\n" + "\n".join(lines)
            )
    for line in ignored.values():
        note(line)


def check_layers(checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise `Refused` unless all models have the same experts modules with the same parameters."""
    names = list(checkpoints)
    first = checkpoints[names[0]]
    for name in names[1:]:
        other = checkpoints[name]
        for one, two in zip(first.experts, other.experts, strict=True):
            same = (one.module, one.num_experts, [key for key, _ in one.parameters])
            if same != (two.module, two.num_experts, [key for key, _ in two.parameters]):
                raise Refused(f"experts of {one.module} in {names[0]!r} and {name!r} differ")
