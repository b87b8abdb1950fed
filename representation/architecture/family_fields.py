"""Which config fields may differ between the models of one family, and why. Computes no logits.

A field may differ if every model is served by its own value, if it stands in `CHANGE_NOTHING`, or
if neither building nor tracing the model ever reads it. Fields about lengths are never judged by
that: code that short texts do not reach may read them.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from representation.architecture.anatomy import study
from representation.architecture.config import (
    config_of,
    is_wrapper,
    plain_config,
    rope_fields,
    tower_fields,
)

OWN_FIELDS = frozenset(
    {
        "_name_or_path",
        "max_position_embeddings",
        "original_max_position_embeddings",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "transformers_version",
        "use_cache",
        "vocab_size",
    }
)
"""Every model is served by its own value of these, and of its token ids; or nobody reads them."""

TRAINING = "it is used in training only"
CHANGE_NOTHING: Mapping[str, str] = {
    "architectures": "the class follows from model_type",
    "attention_dropout": TRAINING,
    "dropout_rate": TRAINING,
    "initializer_range": TRAINING,
    "input_jitter_noise": TRAINING,
    "router_aux_loss_coef": TRAINING,
    "router_ignore_padding_tokens": "prompts are not padded, and transformers' code ignores it",
    "router_jitter_noise": TRAINING,
    "router_z_loss_coef": TRAINING,
    "use_sliding_window": "what it turns on or off is compared itself",
}
"""Fields that code reads although they change no logits, each with the reason."""
CHANGE_MUCH = frozenset({("phimoe", "router_jitter_noise")})
"""Exceptions, by model type. PhiMoE's router compares scores with it."""

OF_TENSORS = frozenset({"dtype", "model_type"})
"""They say what the tensors are, whether or not the model reads them again."""
LENGTHS = ("chunk", "max_position", "rope", "window")
"""Words in the names of fields that may come into play with long texts only."""
PREDICTION = ("mtp", "nextn")
"""Words in the names of fields about layers that predict further tokens."""
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Fields of a wrapper's own; others, of images say, may be read by its forward."""

ABSENT = "absent"
ANGLES = "number of rotary angles"
UNREAD = "nothing in the model reads it"
NOT_SERVED = "only the text model is served"
PREDICTS = "layers that predict further tokens are not served"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that has two values. `ignored`: why that changes nothing; None: it may change much

    Fields of a wrapper's text model are called as in `config.json`: `text_config.hidden_size`.
    """

    field: str
    one: Any
    other: Any
    ignored: str | None


def config_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """Fields that differ between two configs, but for those that each model has for itself.

    They are of one family if each difference is ignored. Tokenizers, chat templates and generation
    defaults are not part of a config and may always differ.
    Raises: Unservable.
    """
    if one == other:
        return []
    whole = [_whole(fields) for fields in (one, other)]
    return _angles(one, other) + [
        Difference(
            field,
            whole[0].get(field, ABSENT),
            whole[1].get(field, ABSENT),
            ignored=_why_ignored(field, (one, other), whole),
        )
        for field in _differing(*whole)
    ]


def _angles(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """Each model turns by its own angles, but all by as many: a step has one tensor of them.

    Where attention's own code reads parameters of rope (Mistral-4), it reads those of one config
    for all models, so they must be equal.
    """
    ropes = rope_fields(config_of(one)), rope_fields(config_of(other))
    if ropes[0] == ropes[1]:
        return []
    looks = _look(one), _look(other)
    if looks[0].attention_reads_rope:
        differing = sorted(
            key for key in {*ropes[0], *ropes[1]} if ropes[0].get(key) != ropes[1].get(key)
        )
        return [
            Difference(key, ropes[0].get(key, ABSENT), ropes[1].get(key, ABSENT), ignored=None)
            for key in differing
        ]
    num = looks[0].num_angles, looks[1].num_angles
    return [] if num[0] == num[1] else [Difference(ANGLES, *num, ignored=None)]


def _why_ignored(
    field: str, configs: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]]
) -> str | None:
    name = _own_name(field)
    if name in CHANGE_NOTHING and (whole[0]["model_type"], name) not in CHANGE_MUCH:
        return CHANGE_NOTHING[name]
    if field in tower_fields(config_of(configs[0])):
        return NOT_SERVED
    if any(word in name for word in PREDICTION):
        return PREDICTS
    if any(word in name for word in LENGTHS):
        return _windows_off(field, *whole)
    is_read = name in OF_TENSORS or any(name in fields_read(config) for config in configs)
    return None if is_read else UNREAD


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for field in sorted(one.keys() | other.keys()):
        if not _is_own(field, one) and one.get(field, ABSENT) != other.get(field, ABSENT):
            yield field


def _is_own(field: str, whole: Mapping[str, Any]) -> bool:
    """Whether every model is served by its own value."""
    name = _own_name(field)
    of_wrapper = name == field and any("." in each for each in whole)
    own_tokens = name in SPECIAL_TOKENS if of_wrapper else name.endswith("_token_id")
    return own_tokens or name in OWN_FIELDS


def _own_name(field: str) -> str:
    """A field's name in the config that it is in."""
    return field.rpartition(".")[2]


def _whole(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the values of all fields that transformers fills in, the text model's too."""
    config = config_of(fields)
    whole = plain_config(config)
    if is_wrapper(config):
        (key,) = set(config.sub_configs) - set(tower_fields(config))
        text = whole.pop(key)
        return whole | {f"{key}.{name}": value for name, value in _with_head_dim(text).items()}
    return _with_head_dim(whole)


def _with_head_dim(whole: dict[str, Any]) -> dict[str, Any]:
    if "head_dim" in whole and whole["head_dim"] is None:
        whole["head_dim"] = whole["hidden_size"] // whole["num_attention_heads"]
    return whole


def _windows_off(field: str, *configs: Mapping[str, Any]) -> str | None:
    switch = field.removesuffix(_own_name(field)) + "use_sliding_window"
    off = all(config.get(switch, True) is False for config in configs)
    return "both configs turn sliding windows off" if off and "window" in field else None


def fields_read(fields: Mapping[str, Any]) -> frozenset[str]:
    """The fields of a config that are read when its model is built and traced, or by its experts.

    A trace does not run the experts, so every word in their code counts.
    Raises: Unservable.
    """
    return _look(fields).read


@dataclass(frozen=True, slots=True)
class _Look:
    """What building and tracing shows. num_angles: that a token's queries are turned by.

    attention_reads_rope: whether its forward reads the config's parameters of rope.
    """

    read: frozenset[str]
    num_angles: int
    attention_reads_rope: bool


def _look(fields: Mapping[str, Any]) -> _Look:
    return _look_at(json.dumps(dict(fields), sort_keys=True, default=str))


@lru_cache(maxsize=16)
def _look_at(fields: str) -> _Look:
    config = config_of(json.loads(fields))
    read: set[str] = set()
    for part in [config, config.get_text_config()] if is_wrapper(config) else [config]:
        _record(part, read)
    anatomy = study(config, torch.float32)
    kinds = {type(anatomy.model.get_submodule(path)) for path in anatomy.experts}
    words = {word for kind in kinds for word in re.findall(r"\w+", inspect.getsource(kind))}
    found = [
        len(buffer)
        for module in anatomy.rotaries.values()
        for name, buffer in module.named_buffers(recurse=False)
        if name.endswith("inv_freq")
    ]
    attentions = {type(anatomy.model.get_submodule(path)) for path in anatomy.attentions}
    reads = any("rope_parameters" in inspect.getsource(kind.forward) for kind in attentions)
    return _Look(frozenset(read | words), sum(found), reads)


def _record(config: Any, read: set[str]) -> None:
    """Let the config note which of its fields are read, copies of it too."""
    kind: Any = type(config)

    def get(self: Any, name: str) -> Any:
        read.add(kind.attribute_map.get(name, name))
        return kind.__getattribute__(self, name)

    config.__class__ = type(
        kind.__name__, (kind,), {"__getattribute__": get, "__module__": kind.__module__}
    )
