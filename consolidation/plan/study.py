"""From opened checkpoints to a plan: runs the tasks that it needs. The rules are in solver.py.

The scan finds identical experts. The others are compared; only where a budget allows losses are
statistics gathered for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import torch

from consolidation.checkpoints.contents import contents_by_layer
from consolidation.checkpoints.family import BASE, Family
from consolidation.checkpoints.scan import LayerScan, ScanTask, layer_scan, scan
from consolidation.compare.groups import Group
from consolidation.compare.menu import FileSizes
from consolidation.compare.noise import GROUP
from consolidation.plan.comparing import compare, compare_tasks, find_all_origins
from consolidation.plan.device_bytes import walk_on
from consolidation.plan.format_limit import least_bytes_within, within_formats
from consolidation.plan.least import allowed_bytes, check_budget
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
from consolidation.statistics.windows import ModelWindows
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
    scans, backbones, of_base = _scan(recipe, family, stages)
    kept = Extended(family.extended, family.kept) if family.extended is not None else None
    by_layer = contents_by_layer(family.modules, scans, _kept_contents(kept))
    norms = [n for layers in scans.values() for layer in layers for n in layer.square_norms]
    sizes = [FileSizes(family.shape(i), DTYPES[family.dtype]) for i in range(len(by_layer))]
    statistics, responses = None, None
    groups: list[tuple[Group, ...] | None] = [None] * len(by_layer)
    if family.checkpoints:
        if recipe.is_lossy and any(found.statistics for found in windows.values()):
            keys = _statistics_keys(recipe, family, scans, backbones, windows)
            statistics = open_store(keys)
        tasks = compare_tasks(recipe, family, by_layer, scans, of_base, kept, statistics)
        origins = find_all_origins(tasks, stages)
        terms = PlanTerms(
            family.models,
            family.expert_bytes_one_model,
            allowed_bytes(recipe, family),
            responses=None,
            square_norm=0.0,
            decode_step=family.decode_step,
        )
        check_budget(list(zip(by_layer, sizes, strict=True)), terms, tasks, origins, kept)
        if statistics is not None:
            device = recipe.device
            responses = _gather(family, windows, statistics, stages, now, device)
        groups = list(compare(family, by_layer, tasks, origins, stages))
    return Study(
        scans=scans,
        layers=tuple(LayerChoices(*found) for found in zip(by_layer, sizes, groups, strict=True)),
        extended=kept,
        statistics=statistics,
        responses=responses,
        models=family.models,
        one_model=family.expert_bytes_one_model,
        square_norm=math.fsum(norms),
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
    recipe: Recipe,
    family: Family,
    scans: Mapping[str, tuple[LayerScan, ...]],
    backbones: Mapping[str, Sequence[str]],
    windows: Mapping[str, ModelWindows],
) -> dict[str, str]:
    """By model, a digest of its tensors, its text and what computes: not of where it lies."""
    libraries = {name: version for name, version in versions().items() if name != "expertpool"}
    if recipe.device.type != "cpu":
        libraries["device"] = recipe.device.type  # it adds in another order
    keys = {}
    for name, checkpoint in family.checkpoints.items():
        adapter = checkpoint.adapter
        tensors = {
            **({"adapter": adapter.digest()} if adapter is not None else {}),
            "config": checkpoint.config,
            "experts": [list(layer.digests) for layer in scans[name]],
            "backbone": list(backbones[name]),
        }
        keys[name] = statistics_key(tensors, windows[name], libraries)
    return keys


def _gather(
    family: Family,
    windows: Mapping[str, ModelWindows],
    store: StatisticsStore,
    stages: Stages,
    now: datetime,
    device: torch.device,
) -> dict[str, Response]:
    tasks = [
        (
            name,
            StatisticsTask(
                name=name,
                checkpoint=checkpoint,
                windows=windows[name].statistics,
                probes=windows[name].scored,
                roundings=PROBES,
                store=store,
                device=device,
            ),
        )
        for name, checkpoint in family.checkpoints.items()
    ]
    experts = [source.num_experts for source in next(iter(family.checkpoints.values())).experts]
    # A layer of one model in memory at a time, unless they are small.
    small = family.expert_bytes_one_model <= SMALL_BYTES
    stage = "calibrate"
    results = replace(stages, journal=StatisticsJournal(store, stage, now)).run(
        stage,
        gather,
        tasks,
        noun="models",
        sizes=[checkpoint.num_bytes for checkpoint in family.checkpoints.values()],
        in_flight=None if small else 1,
        tells=True,
        device_bytes=max(walk_on(device, checkpoint) for checkpoint in family.checkpoints.values()),
        still_good=lambda result: store.there(result["model"], experts),
    )
    return responses(
        {
            name: [(cost, divergence) for cost, divergence in result["probes"]]
            for name, result in zip(family.checkpoints, results, strict=True)
        }
    )


def _scan(
    recipe: Recipe, family: Family, stages: Stages
) -> tuple[dict[str, tuple[LayerScan, ...]], dict[str, list[str]], tuple[LayerScan, ...]]:
    """Scan all new models, and the base's experts.

    -> by model, its experts' layers and digests of the parts of its backbone; layers of the base
    """
    experts = [
        (f"{name} {layer}", ScanTask(name, source, recipe.is_lossy))
        for name, checkpoint in family.checkpoints.items()
        for layer, source in enumerate(checkpoint.experts)
    ]
    others = [
        (f"{name} {part.name}", ScanTask(name, part, recipe.is_lossy))
        for name, checkpoint in family.checkpoints.items()
        for part in checkpoint.backbone
    ]
    if family.base is not None:
        others += [
            (f"{BASE} {layer}", ScanTask(BASE, source, recipe.is_lossy))
            for layer, source in enumerate(family.base.experts)
        ]
    tasks = [*experts, *others]
    sizes = [task.source.num_bytes for _, task in tasks]
    results = iter(stages.run("scan", scan, tasks, noun="parts", sizes=sizes))
    scans = {
        name: tuple(layer_scan(next(results)) for _ in family.modules)
        for name in family.checkpoints
    }
    backbones = {
        name: [str(next(results)["digest"]) for _ in checkpoint.backbone]
        for name, checkpoint in family.checkpoints.items()
    }
    return scans, backbones, tuple(map(layer_scan, results))
