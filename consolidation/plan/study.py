"""From opened checkpoints to a plan: runs the tasks that it needs. The rules are in solver.py.

The scan finds identical experts. The others are compared; only where a budget allows losses are
statistics gathered for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from consolidation.checkpoints.contents import Contents, User, contents_by_layer
from consolidation.checkpoints.family import Family
from consolidation.checkpoints.scan import LayerScan, layer_scan, scan_backbone, scan_layer
from consolidation.compare.groups import Group
from consolidation.compare.layer import CompareTask, Distinct, compare_layer
from consolidation.compare.menu import FileSizes
from consolidation.compare.noise import GROUP
from consolidation.errors import Refused
from consolidation.plan.format_limit import least_bytes_within, within_formats
from consolidation.plan.quickest import quickest_plan
from consolidation.plan.solver import make_plan
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
from consolidation.plan.values import Plan
from consolidation.recipe import Recipe, versions
from consolidation.release.manifest import DTYPES
from consolidation.run.journal import Stages
from consolidation.statistics.gathering import StatisticsTask, gather
from consolidation.statistics.responses import Response, responses
from consolidation.statistics.stored import StatisticsJournal, StatisticsStore, statistics_key
from consolidation.statistics.text import ModelWindows
from representation.formats import Packed
from representation.step_reads import DecodeStep

SMALL_BYTES = 256 << 20
"""Models whose experts take at most this may be in memory several at a time."""
PROBES = (Packed(6, GROUP), Packed(3, GROUP))
"""Roundings, finest first, that predicted divergences are tried with."""


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that plans are made of: the results of scanning and, with a budget, comparing."""

    scans: Mapping[str, tuple[LayerScan, ...]]
    layers: tuple[LayerChoices, ...]
    extended: Extended | None
    statistics: StatisticsStore | None
    responses: Mapping[str, Response] | None
    models: tuple[str, ...]
    one_model: int
    square_norm: float
    decode_step: DecodeStep
    max_formats: int | None

    def plan(self, allowed: int | None) -> Plan:
        """The plan within `allowed` bytes; None: nothing is lost. Raises `Refused`."""
        terms = self._terms(allowed)
        return quickest_plan(self._layers(terms), terms, self.extended)

    def least_error(self, allowed: int) -> float:
        """The least error of a plan within these bytes. Never grows with them. Raises `Refused`."""
        terms = self._terms(allowed)
        return make_plan(self._layers(terms), terms, self.extended).error

    def least_bytes(self) -> int:
        """Bytes of the plan that takes the fewest."""
        return least_bytes_within(self.layers, self._terms(None), self.extended)

    def _layers(self, terms: PlanTerms) -> Sequence[LayerChoices]:
        """The choices that have few enough formats, where that is asked for."""
        return within_formats(self.layers, terms, self.extended)

    def _terms(self, allowed: int | None) -> PlanTerms:
        return PlanTerms(
            models=self.models,
            one_model=self.one_model,
            allowed=allowed,
            responses=self.responses,
            square_norm=self.square_norm,
            decode_step=self.decode_step,
            max_formats=self.max_formats,
        )


def make_study(
    recipe: Recipe,
    family: Family,
    windows: Mapping[str, ModelWindows],
    open_store: Callable[[Mapping[str, str]], StatisticsStore],
    stages: Stages,
    now: datetime,
) -> Study:
    """Scan and compare; where the recipe allows losses, gather statistics first.

    Where it allows none, every expert is locked: what gives it back to the bit is all there is.
    `windows` are by model; without any for statistics, weights alone are compared. `open_store`
    gets a digest for each model, of all that its statistics depend on. Raises `Refused`.
    """
    scans = _scan(family, stages)
    _check_finite(family, scans)
    kept = Extended(family.extended, family.kept) if family.extended is not None else None
    by_layer = contents_by_layer(family.modules, scans, _kept_contents(kept))
    norms = [n for layers in scans.values() for layer in layers for n in layer.square_norms]
    statistics, responses = None, None
    groups: list[tuple[Group, ...] | None] = [None] * len(by_layer)
    if family.checkpoints:
        if recipe.is_lossy and any(found.statistics for found in windows.values()):
            statistics = open_store(_statistics_keys(family, scans, windows, stages))
            responses = _gather(family, windows, statistics, stages, now)
        groups = list(_compare(recipe, family, by_layer, kept, statistics, stages))
    sizes = [FileSizes(family.shape(i), DTYPES[family.dtype]) for i in range(len(by_layer))]
    return Study(
        scans=scans,
        layers=tuple(LayerChoices(*found) for found in zip(by_layer, sizes, groups, strict=True)),
        extended=kept,
        statistics=statistics,
        responses=responses,
        models=family.models,
        one_model=family.expert_bytes_one_model,
        square_norm=math.fsum(n for n in norms if n is not None),
        decode_step=family.decode_step,
        max_formats=recipe.max_formats,
    )


def _kept_contents(extended: Extended | None) -> list[dict[str, int]] | None:
    """Slots of the release that hold an unchanged expert, by digest, for each layer."""
    if extended is None:
        return None
    return [
        {slot.digest: index for index, slot in enumerate(layer.slots) if slot.format == "dense"}
        for layer in extended.manifest.layers
    ]


def _statistics_keys(
    family: Family,
    scans: Mapping[str, tuple[LayerScan, ...]],
    windows: Mapping[str, ModelWindows],
    stages: Stages,
) -> dict[str, str]:
    """By model, a digest of its tensors, its text and the software: not of where it lies."""
    tasks = [
        (f"{name} {part.name}", part)
        for name, checkpoint in family.checkpoints.items()
        for part in checkpoint.backbone
    ]
    digests = iter(stages.run("scan", scan_backbone, tasks))
    libraries = {name: version for name, version in versions().items() if name != "expertpool"}
    keys = {}
    for name, checkpoint in family.checkpoints.items():
        tensors = {
            "config": checkpoint.config,
            "experts": [list(layer.digests) for layer in scans[name]],
            "backbone": [next(digests) for _ in checkpoint.backbone],
        }
        keys[name] = statistics_key(tensors, windows[name], libraries)
    return keys


def _gather(
    family: Family,
    windows: Mapping[str, ModelWindows],
    store: StatisticsStore,
    stages: Stages,
    now: datetime,
) -> dict[str, Response]:
    tasks = [
        (
            name,
            StatisticsTask(
                name=name,
                directory=checkpoint.directory,
                modules=tuple(family.modules),
                windows=windows[name].statistics,
                probes=windows[name].scored,
                roundings=PROBES,
                store=store,
            ),
        )
        for name, checkpoint in family.checkpoints.items()
    ]
    experts = [source.num_experts for source in next(iter(family.checkpoints.values())).experts]
    # One model in memory at a time, unless they are small.
    small = family.expert_bytes_one_model <= SMALL_BYTES
    stage = "calibrate"
    results = replace(stages, journal=StatisticsJournal(store, stage, now)).run(
        stage,
        gather,
        tasks,
        in_flight=None if small else 1,
        still_good=lambda result: store.there(result["model"], experts),
    )
    return responses(
        {
            name: [(cost, divergence) for cost, divergence in result["probes"]]
            for name, result in zip(family.checkpoints, results, strict=True)
        }
    )


def _scan(family: Family, stages: Stages) -> dict[str, tuple[LayerScan, ...]]:
    tasks = [
        (f"{name} {layer}", source)
        for name, checkpoint in family.checkpoints.items()
        for layer, source in enumerate(checkpoint.experts)
    ]
    found = [layer_scan(result) for result in stages.run("scan", scan_layer, tasks)]
    num_layers = len(family.modules)
    return {
        name: tuple(found[i * num_layers : (i + 1) * num_layers])
        for i, name in enumerate(family.checkpoints)
    }


def _check_finite(family: Family, scans: Mapping[str, tuple[LayerScan, ...]]) -> None:
    for name, layers in scans.items():
        for layer, scan in enumerate(layers):
            for index, norm in enumerate(scan.square_norms):
                if norm is None:
                    raise Refused(
                        f"model {name!r}: expert {index} of {family.modules[layer]} has weights "
                        "that are not finite"
                    )


def _compare(
    recipe: Recipe,
    family: Family,
    by_layer: Sequence[Contents],
    extended: Extended | None,
    statistics: StatisticsStore | None,
    stages: Stages,
) -> list[tuple[Group, ...]]:
    """The groups of each layer, without experts that a kept slot holds unchanged."""
    tasks = []
    fresh = []
    for layer, contents in enumerate(by_layer):
        positions = [i for i, digest in enumerate(contents.digests) if digest not in contents.kept]
        task = CompareTask(
            layer=layer,
            experts=tuple(
                _distinct(recipe, family, layer, contents, i, extended) for i in positions
            ),
            base=family.base.experts[layer] if family.base is not None else None,
            statistics=statistics,
            dtype=DTYPES[family.dtype],
            slots=extended.manifest.layers[layer].slots if extended is not None else (),
            registry=recipe.registry,
            family=recipe.family,
            max_formats=recipe.max_formats,
        )
        tasks.append((str(layer), task))
        fresh.append(positions)
    results = stages.run("compare", compare_layer, tasks)
    return [
        tuple(Group.from_json(group).numbered(positions) for group in result)
        for positions, result in zip(fresh, results, strict=True)
    ]


def _distinct(
    recipe: Recipe,
    family: Family,
    layer: int,
    contents: Contents,
    position: int,
    extended: Extended | None,
) -> Distinct:
    users = contents.users[position]
    first = users[0]
    kept: set[int] = set()
    if extended is not None:
        models = [extended.manifest.models[name] for name in extended.models]
        kept = {model.expert_map[layer][first.index] for model in models}
    return Distinct(
        source=family.source(first.model, layer),
        index=first.index,
        users=tuple(User(u.model, u.index, recipe.weights.get(u.model, 1.0)) for u in users),
        locked=not recipe.is_lossy or any(user.model in recipe.exact for user in users),
        kept=tuple(sorted(kept)),
    )
