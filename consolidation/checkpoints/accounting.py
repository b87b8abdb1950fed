"""Accounts for every tensor of a checkpoint, from headers alone. Reads no tensor data.

Names are matched as transformers matches them when it loads a model
(`transformers.core_model_loading.convert_and_load_state_dict_in_model`): renamings, then at most
one converter, then the base model's prefix. Where transformers warns or says nothing, this raises
an error that names the tensor. Left out is only what is known and not served (`not_served.py`), and
what models compute themselves.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key

from consolidation.checkpoints.conversion import Conversion
from consolidation.checkpoints.naming import Naming, numbered, some
from consolidation.checkpoints.not_served import Prediction, belonging
from consolidation.checkpoints.tensor_file import DTYPES, SERVED_DTYPES, SourceTensor
from consolidation.errors import Refused
from representation.architecture.anatomy import Anatomy

WRAPPERS = ("_orig_mod.", "base_model.model.", "module.")
"""What torch.compile, PEFT and data-parallel training put before names."""


@dataclass(frozen=True, slots=True)
class Account:
    """All tensors of a checkpoint. conversions: by the parameter or buffer, in the model's order.

    not_served: how many are of each module that is not served.
    """

    conversions: dict[str, Conversion]
    not_served: dict[str, int]


def account(directory: Path, anatomy: Anatomy, stored: Mapping[str, SourceTensor]) -> Account:
    """What is made of each tensor.

    Tied parameters appear once, under the name of the tensor they are tied to. Raises `Refused`
    with the names of tensors that match nothing, are missing or doubled, or have another shape or
    a dtype that is not served.
    """
    wanted = dict(anatomy.model.state_dict())
    conversions, others, unmatched = _match(directory, anatomy, stored, wanted)
    if unmatched:
        raise Refused(
            f"{directory}: nothing in the model is made of {some(unmatched)}{_advice(stored)}"
        )
    for conversion in conversions.values():
        _check_sources(directory, conversion, wanted, _num_experts(anatomy))
    made: dict[str, Conversion] = {}
    for conversion in conversions.values():
        for name in _made_by(directory, conversion, wanted):
            if name in made:
                raise Refused(f"{directory}: {name} is made twice, from different tensors")
            made[name] = conversion
    _check_missing(directory, anatomy, made, wanted)
    in_order = {name: made[name] for name in wanted if name in made}
    return Account(in_order, belonging(others, wanted))


def _advice(stored: Mapping[str, SourceTensor]) -> str:
    """What to do where all names are those of another module around the model."""
    for prefix in WRAPPERS:
        if all(key.startswith(prefix) for key in stored):
            return f": all names begin with {prefix!r}; save the model inside of what wraps it"
    return ""


def _match(
    directory: Path,
    anatomy: Anatomy,
    stored: Mapping[str, SourceTensor],
    wanted: dict[str, torch.Tensor],
) -> tuple[dict[str, Conversion], list[str], list[str]]:
    """Conversions by first target, keys that are not served, and keys that match nothing."""
    naming = Naming(anatomy)
    prediction = Prediction(stored)
    passed_over, computed = _passed_over(anatomy.model)
    transforms: dict[str, Any] = {}
    sources: dict[str, list[tuple[str, SourceTensor]]] = {}
    others: list[str] = []
    unmatched: list[str] = []
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = naming.find(key)
        if name not in wanted:
            if name in naming.shapes.shapes:
                others.append(name)
            elif prediction.has(key) or any(re.search(each, name) for each in passed_over):
                others.append(key)
            elif not any(re.search(each, name) for each in computed):
                unmatched.append(key)
            continue
        if pattern is None:
            if name in sources:
                other = sources[name][0][1].key
                raise Refused(f"{directory}: {other} and {key} both become {name}")
            transforms[name] = WeightRenaming(key, name)
        elif name not in transforms:
            transforms[name] = naming.converter(pattern)
        elif not isinstance(transforms[name], WeightConverter):
            raise Refused(f"{directory}: {sources[name][0][1].key} and {key} both become {name}")
        sources.setdefault(name, []).append((pattern or key, stored[key]))
    made = {
        name: Conversion(name, transforms[name], tuple(sources[name]), naming.shapes)
        for name in sources
    }
    return made, others, unmatched


def _passed_over(model: Any) -> tuple[list[str], list[str]]:
    """Patterns of what transformers passes over when it loads this class, and of what it computes.

    What a model computes itself was in checkpoints once: it says nothing.
    """
    patterns = set(model._keys_to_ignore_on_load_unexpected or ())
    computed = {pattern for pattern in patterns if pattern.endswith("inv_freq")}
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        computed.add(r"rotary_emb\.inv_freq")
    if any(name.endswith("position_ids") for name in buffers):
        computed.add(r"(^|\.)position_ids$")
    return sorted(patterns - computed), sorted(computed)


def _num_experts(anatomy: Anatomy) -> dict[str, int]:
    return {
        f"{experts.module}.{parameter}": experts.num_experts
        for experts in anatomy.experts.values()
        for parameter in experts.shape.parameters
    }


def _check_sources(
    directory: Path,
    conversion: Conversion,
    wanted: Mapping[str, torch.Tensor],
    num_experts: Mapping[str, int],
) -> None:
    """Dtypes are served; lists of experts are complete, and of one shape and dtype."""
    floating = wanted[conversion.target].is_floating_point()
    for _, stored in conversion.sources:
        if stored.dtype not in (SERVED_DTYPES if floating else DTYPES):
            raise Refused(
                f"{directory}: {stored.key} is stored as {stored.dtype}; "
                "bf16, fp16 and fp32 can be read"
            )
    if not isinstance(conversion.transform, WeightConverter):
        return
    lists: dict[str, list[SourceTensor]] = {p: [] for p in conversion.transform.source_patterns}
    for pattern, stored in conversion.sources:
        lists[pattern].append(stored)
    count = num_experts.get(conversion.target)
    for pattern, found in lists.items():
        for stored in found if count is not None and "*." in pattern else ():
            if numbered(pattern, stored.key)[1] >= (count or 0):
                raise Refused(f"{directory}: {stored.key} is beyond the {count} experts there are")
    missing = list(_missing_sources(lists, count))
    if missing:
        raise Refused(f"{directory}: {some(missing)} is missing for {conversion.target}")
    for found in lists.values():
        usual = Counter((s.shape, s.dtype) for s in found).most_common(1)[0][0]
        for stored in found:
            if (stored.shape, stored.dtype) != usual:
                raise Refused(
                    f"{directory}: {stored.key} is {stored.dtype} {list(stored.shape)} "
                    f"among others of {usual[1]} {list(usual[0])}"
                )


def _missing_sources(
    lists: Mapping[str, list[SourceTensor]], num_experts: int | None
) -> Iterator[str]:
    """Names missing from the lists of a converter, as far as they can be told."""
    for pattern, found in lists.items():
        if not found:
            yield f"anything that matches {pattern!r}"
        elif "*." in pattern:
            names = [numbered(pattern, stored.key) for stored in found]
            there = {number for _, number in names}
            count = max(there) + 1 if num_experts is None else num_experts
            for number in sorted(set(range(count)) - there):
                yield names[0][0].replace("*", str(number))


def _made_by(
    directory: Path, conversion: Conversion, wanted: Mapping[str, torch.Tensor]
) -> list[str]:
    """The parameters that a conversion makes, after a check of their shapes."""
    keys = [stored.key for _, stored in conversion.sources]
    try:
        made = conversion.shape()
    except Exception as error:  # operations of the registry raise what torch raises
        raise Refused(f"{directory}: {some(keys)} do not fit together: {error}") from error
    for name, tensor in made.items():
        if name not in wanted:
            raise Refused(f"{directory}: {some(keys)} would make {name}, which the model lacks")
        if tensor.shape != wanted[name].shape:
            raise Refused(
                f"{directory}: {some(keys)} gives {name} the shape {list(tensor.shape)} "
                f"instead of {list(wanted[name].shape)}"
            )
    return list(made)


def _check_missing(
    directory: Path,
    anatomy: Anatomy,
    made: dict[str, Conversion],
    wanted: Mapping[str, torch.Tensor],
) -> None:
    """Nothing is missing, once tied parameters stand for each other; those are then one."""
    tied: dict[str, str] = dict(anatomy.model.all_tied_weights_keys)
    for target, source in tied.items():
        if source not in made and target in made:
            made[source] = made[target]
        elif source in made and target in made and not _same(made[source], made[target]):
            raise Refused(
                f"{directory}: the config ties {target} to {source}, "
                "but the checkpoint holds different values for them"
            )
        made.pop(target, None)
    missing = [name for name in wanted if name not in made and name not in tied]
    if missing:
        raise Refused(f"{directory}: the checkpoint lacks {some(missing)}")


def _same(one: Conversion, other: Conversion) -> bool:
    if one is other:
        return True
    return torch.equal(one.read()[one.target], other.read()[other.target])
