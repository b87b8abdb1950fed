"""An opened checkpoint: its parts and how to read each. Holds no tensor and no open file.

Everything here can be pickled, so a task gets only the part that it reads.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from consolidation.arithmetic.factors import Factors
from consolidation.checkpoints.accounting import account
from consolidation.checkpoints.adapters.adapter import Adapter, open_adapter
from consolidation.checkpoints.adapters.adapter_tensors import with_adapter
from consolidation.checkpoints.architecture import read_architecture, read_json, with_beginning
from consolidation.checkpoints.cached_names import called
from consolidation.checkpoints.conversion import Conversion
from consolidation.checkpoints.notes import Note, log_note
from consolidation.checkpoints.quantised.quantised_formats import plain_tensors
from consolidation.checkpoints.tensor_file import SERVED_DTYPES, read_headers
from consolidation.checkpoints.weight_files import check_weight_files
from consolidation.errors import Refused
from consolidation.release.manifest import Dtype
from representation.architecture.anatomy import Anatomy
from representation.architecture.config import (
    context_limit,
    decoder_beginning,
    plain_config,
    vocabulary_size,
)
from representation.formats import ExpertShape
from representation.layout import Layout
from representation.tokenizer_files import TEMPLATE, TOKENIZER_FILES, has_tokenizer

LAYER = re.compile(r"(.*?\.)\d+\.")
"""The path of something in a layer, up to the layer's number."""


@dataclass(frozen=True, slots=True)
class ExpertsSource:
    """One layer's experts on disk. Parameters are (name, how to read it), in the module's order.

    stand_ins: whose expert of an index is read in place of its own.
    """

    module: str
    num_experts: int
    shape: ExpertShape
    layout: Layout | None
    parameters: tuple[tuple[str, Conversion], ...]
    num_bytes: int
    stand_ins: Mapping[int, "ExpertsSource"] = field(default_factory=dict)

    def read(self, index: int) -> dict[str, torch.Tensor]:
        """One expert's tensors by parameter name, without the expert dimension, as stored."""
        parameters = self.stand_ins.get(index, self).parameters
        return {name: conversion.read_expert(index) for name, conversion in parameters}

    def read_wide(self, index: int) -> dict[str, torch.Tensor]:
        """One expert as its model means it: what an adapter adds is not rounded with the rest."""
        parameters = self.stand_ins.get(index, self).parameters
        return {name: conversion.read_expert(index, wide=True) for name, conversion in parameters}

    def is_adapted(self, index: int) -> bool:
        """Whether an adapter adds anything to an expert."""
        updates = (u for _, conversion in self.parameters for u in conversion.updates.values())
        return any(update.changes(index) for update in updates)

    def factors(self, index: int) -> dict[str, Factors]:
        """By matrix, what an adapter adds to one expert; empty if there is nothing."""
        found = {}
        for name, conversion in self.parameters:
            for update in conversion.updates.values():
                factors = update.factors(index)
                if factors is not None:
                    found[name] = factors
        return found

    @property
    def unadapted(self) -> "ExpertsSource":
        """The same experts, without what an adapter adds."""
        plain = tuple((name, replace(own, updates={})) for name, own in self.parameters)
        return replace(self, parameters=plain)


@dataclass(frozen=True, slots=True)
class BackboneSource:
    """Part of a backbone that becomes one blob: a decoder layer, or one tensor outside of them."""

    name: str
    tensors: tuple[tuple[str, Conversion], ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors, as read."""
        return sum(_num_bytes(conversion) for _, conversion in self.tensors)

    def read(self) -> dict[str, torch.Tensor]:
        """The tensors by state-dict name, as stored."""
        found: dict[str, torch.Tensor] = {}
        for name, conversion in self.tensors:
            if name not in found:
                made = conversion.read()
                # A tied parameter may be stored under the name of the one tied to it.
                found[name] = made[name] if name in made else made[conversion.target]
        return found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The directory of one model. `dtype` is that of its experts; bytes are of tensors, as read.

    `beginning` are the tokens that its decoder begins with, if it also has an encoder.
    `context_length` is in tokens, None where the config sets no limit. `quantised` says how weights
    are stored that are in fewer bits than they are read in. `adapter` is merged as tensors are
    read; it changes `num_merged` tensors of the backbone. `not_served` says how many tensors are of
    each module that is not served.
    """

    directory: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    architecture: str
    beginning: tuple[int, ...]
    vocab_size: int
    context_length: int | None
    dtype: Dtype
    experts: tuple[ExpertsSource, ...]
    backbone: tuple[BackboneSource, ...]
    expert_bytes: int
    backbone_bytes: int
    fingerprint: str
    quantised: str | None = None
    adapter: Adapter | None = None
    num_merged: int = 0
    not_served: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.expert_bytes + self.backbone_bytes

    @property
    def name(self) -> str:
        """What the directory is called, and its adapter's: `base+adapter`."""
        name = called(self.directory)
        return f"{name}+{called(self.adapter.directory)}" if self.adapter is not None else name

    @property
    def tokenizer_directory(self) -> Path:
        """Where its tokenizer is: with its adapter, if that has one."""
        if self.adapter is not None and has_tokenizer(self.adapter.directory):
            return self.adapter.directory
        return self.directory

    def tokenizer_files(self) -> Iterator[tuple[str, Path]]:
        """Files a tokenizer may be made of, by name relative to the directory, sorted.

        The chat template of an adapter that has one is the model's.
        """
        directory = self.tokenizer_directory
        own = self.adapter.directory if self.adapter is not None else directory
        for name in TOKENIZER_FILES:
            place = own if name == TEMPLATE and (own / name).is_file() else directory
            if (place / name).is_file():
                yield name, place / name
        extra = directory / "additional_chat_templates"
        for path in sorted(extra.glob("*.jinja")):
            yield f"{extra.name}/{path.name}", path


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The directories on this machine that one model is read from."""

    directory: Path
    adapter: Path | None = None

    def open(self, note: Note = log_note) -> Checkpoint:
        """Raises `Refused`."""
        return open_checkpoint(self.directory, self.adapter, note)


def open_checkpoint(
    directory: Path, adapter_directory: Path | None = None, note: Note = log_note
) -> Checkpoint:
    """Read config and headers, and account for every tensor. Raises `Refused`.

    With an adapter, the model is the directory's with the adapter merged.
    """
    given = [place for place in (adapter_directory, directory) if place is not None]
    places = [place.expanduser().resolve() for place in given]
    directory = places[-1]
    if not directory.is_dir():
        raise Refused(f"no checkpoint directory {directory}")
    check_weight_files(directory)
    generation = _generation_config(places)
    fields = with_beginning(read_json(directory / "config.json"), generation)
    anatomy = read_architecture(directory, fields, note)
    plain = plain_tensors(directory, fields, read_headers(directory))
    if plain.left_over is not None:
        note(
            f"{directory}: its config says that it is quantised ({plain.left_over}), "
            "but its weights are plain: they are read as they are"
        )
    accounted = account(directory, anatomy, plain.tensors)
    conversions, not_served = accounted.conversions, Counter(accounted.not_served)
    adapter = open_adapter(adapter_directory) if adapter_directory is not None else None
    if adapter is not None:
        adapter.note_other_base(called(directory), note)
        adapted = with_adapter(adapter.config, anatomy, conversions)
        conversions = adapted.conversions
        not_served.update(adapted.not_served)
    experts = _experts(anatomy, conversions)
    backbone = _backbone(anatomy, conversions)
    dtype = _expert_dtype(directory, experts)
    return Checkpoint(
        directory=directory,
        # What the files hold, whatever the config says about it.
        config={**plain_config(anatomy.config), "dtype": dtype},
        generation_config=generation,
        architecture=type(anatomy.model).__name__,
        beginning=decoder_beginning(anatomy.config),
        vocab_size=vocabulary_size(anatomy.config),
        context_length=context_limit(anatomy.config),
        dtype=dtype,
        experts=experts,
        backbone=backbone,
        expert_bytes=sum(layer.num_bytes for layer in experts),
        backbone_bytes=sum(part.num_bytes for part in backbone),
        fingerprint=_fingerprint(places),
        quantised=plain.quantised,
        adapter=adapter,
        not_served=dict(sorted(not_served.items())),
        num_merged=sum(
            conversion is not accounted.conversions[name]
            for part in backbone
            for name, conversion in part.tensors
        ),
    )


def _generation_config(places: Sequence[Path]) -> dict[str, Any]:
    """Of the first directory that has one; else empty. Raises `Refused` for ends that are none."""
    paths = [place / "generation_config.json" for place in places]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        return {}
    config = read_json(found)
    ends = config.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [] if ends is None else [ends]:
        if type(end) is not int:
            raise Refused(f"{found}: eos_token_id is {ends!r}, not the number of a token")
    return config


def _experts(anatomy: Anatomy, conversions: dict[str, Conversion]) -> tuple[ExpertsSource, ...]:
    found = []
    for experts in anatomy.experts.values():
        names = experts.shape.parameters
        parameters = tuple((name, conversions[f"{experts.module}.{name}"]) for name in names)
        num_bytes = sum(_num_bytes(conversion) for _, conversion in parameters)
        source = ExpertsSource(
            module=experts.module,
            num_experts=experts.num_experts,
            shape=experts.shape,
            layout=experts.layout,
            parameters=parameters,
            num_bytes=num_bytes,
        )
        found.append(source)
    return tuple(found)


def _backbone(anatomy: Anatomy, conversions: dict[str, Conversion]) -> tuple[BackboneSource, ...]:
    """Everything but the experts, in the model's order, grouped by decoder layer."""
    of_experts = {
        f"{path}.{name}" for path, e in anatomy.experts.items() for name in e.shape.parameters
    }
    lists = {match.group(1) for path in anatomy.experts if (match := LAYER.match(path))}
    within = "|".join(map(re.escape, sorted(lists)))
    layers = re.compile(rf"(?:{within})\d+(?=\.)" if lists else r"(?!)")
    groups: dict[str, list[tuple[str, Conversion]]] = {}
    for name, conversion in conversions.items():
        if name not in of_experts:
            inside = layers.match(name)
            groups.setdefault(inside.group() if inside else name, []).append((name, conversion))
    return tuple(BackboneSource(name, tuple(tensors)) for name, tensors in groups.items())


def _expert_dtype(directory: Path, experts: tuple[ExpertsSource, ...]) -> Dtype:
    stored = [s for layer in experts for _, c in layer.parameters for _, s in c.sources]
    for tensor in stored:
        if tensor.dtype != stored[0].dtype:
            raise Refused(
                f"{directory}: {tensor.key} is {tensor.dtype} and {stored[0].key} is "
                f"{stored[0].dtype}; all experts of a model must have one dtype"
            )
    return SERVED_DTYPES[stored[0].dtype]


def _num_bytes(conversion: Conversion) -> int:
    return sum(stored.num_bytes for _, stored in conversion.sources)


def _fingerprint(directories: Sequence[Path]) -> str:
    """A digest of the names, sizes and times of files; it does not read their contents."""
    facts = []
    for path in (path for directory in directories for path in sorted(directory.iterdir())):
        if path.is_file():
            stat = path.stat()
            facts.append([path.name, stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
