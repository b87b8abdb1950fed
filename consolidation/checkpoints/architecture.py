"""What a config describes: an empty transformers model, and whether it can be served.

Reads no tensor. The model is built on the `meta` device from transformers' own classes; where its
experts are, how it mixes tokens and what it ties is asked of that model, not of a list of names.
"""

import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from consolidation.errors import Refused
from representation.formats import ExpertShape
from representation.layout import Layout

EXPERTS_MARKS = frozenset({"has_gate", "has_bias", "is_transposed"})
"""Attributes that transformers' `use_experts_implementation` gives to each instance it wraps."""

CACHE_ARGUMENTS = frozenset({"past_key_values", "past_key_value", "cache_params", "layer_past"})
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})
UNSAVED_FIELDS = ("_name_or_path", "transformers_version", "auto_map", "_commit_hash")
"""Where a config came from, not what it says: left out of the release."""


@dataclass(frozen=True, slots=True)
class ExpertsModule:
    """One layer's experts in the transformers model. `layout` is None where it is another one."""

    module: str
    num_experts: int
    shape: ExpertShape
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """A transformers model without weights, and its experts modules in order of layers."""

    config: Any
    skeleton: Any
    experts: tuple[ExpertsModule, ...]

    @property
    def name(self) -> str:
        """The class, e.g. `MixtralForCausalLM`."""
        return type(self.skeleton).__name__


def read_architecture(directory: Path) -> Architecture:
    """The architecture of a checkpoint directory. Raises `Refused`, by name, what is not served."""
    raw = read_json(directory / "config.json")
    _refuse_by_config(directory, raw)
    config = _parse_config(directory)
    try:
        with torch.device("meta"):
            skeleton = cast(Any, AutoModelForCausalLM).from_config(config)
    except Exception as error:  # transformers raises many classes for configs it cannot build
        raise Refused(f"{directory}: transformers cannot build this config: {error}") from error
    named = raw.get("architectures") or [type(skeleton).__name__]
    if type(skeleton).__name__ not in named:
        raise Refused(
            f"{directory} holds a {named[0]}; only the language model "
            f"{type(skeleton).__name__} can be served"
        )
    _refuse_mixers(directory, skeleton)
    return Architecture(config, skeleton, _find_experts(directory, skeleton))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint. Raises `Refused`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refused(f"{path} is not a JSON object")
    return content


def plain_config(config: Any) -> dict[str, Any]:
    """The full config as JSON values, without where it came from."""
    content = json.loads(json.dumps(config.to_dict(), sort_keys=True, default=str))
    return {key: value for key, value in content.items() if key not in UNSAVED_FIELDS}


def _refuse_by_config(directory: Path, raw: dict[str, Any]) -> None:
    model_type = raw.get("model_type")
    nested = [value for value in raw.values() if isinstance(value, dict)]
    for part in (raw, *nested):
        quantization = part.get("quantization_config")
        if quantization:
            named = isinstance(quantization, dict)
            method = quantization.get("quant_method", "unnamed") if named else quantization
            raise Refused(
                f"{directory} is quantised ({method}); give the checkpoint in bf16, fp16 or fp32"
            )
    if raw.get("is_encoder_decoder"):
        raise Refused(f"{directory}: {model_type} is an encoder-decoder; only decoders are served")
    if any(key in raw for key in ("text_config", "vision_config", "audio_config")):
        raise Refused(
            f"{directory}: {model_type} wraps a language model for other media; "
            "only plain language models are served"
        )
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        if "auto_map" in raw:
            raise Refused(f"{directory}: {model_type!r} needs custom code, which is never run")
        raise Refused(f"{directory}: transformers knows no model_type {model_type!r}")


def _parse_config(directory: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # transformers raises many classes for configs it cannot read
        raise Refused(f"{directory / 'config.json'} cannot be read: {error}") from error
    if hasattr(config, "auto_map"):
        # The class is one of transformers' own; the code beside the checkpoint is never run.
        del config.auto_map
    if getattr(config, "is_encoder_decoder", False):
        raise Refused(f"{directory}: {config.model_type} is an encoder-decoder")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise Refused(f"{directory}: {config.model_type} is not a causal language model")
    kinds = [str(kind) for kind in getattr(config, "layer_types", None) or ()]
    for layer, kind in enumerate(kinds):
        if kind not in ATTENTION_LAYERS:
            raise Refused(
                f"{directory}: layer {layer} of {config.model_type} is {kind!r}; "
                "only attention can be served"
            )
    return config


def _refuse_mixers(directory: Path, skeleton: nn.Module) -> None:
    """Every token mixer must be attention that is called through `AttentionInterface`.

    A mixer is an innermost module that is handed the cache. One per decoder layer, and nothing
    that keeps state between tokens on its own (convolutions, indexers of sparse attention).
    """
    num_layers = int(cast(Any, skeleton).config.num_hidden_layers)
    mixers = list(_mixers(skeleton))
    for name, module in mixers:
        if "ALL_ATTENTION_FUNCTIONS" not in inspect.getsource(type(module).forward):
            raise Refused(
                f"{directory}: {name} is a {type(module).__name__}, which is not attention "
                "called through transformers' AttentionInterface"
            )
    for name, module in skeleton.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or "Indexer" in str(type(module)):
            raise Refused(
                f"{directory}: {name} is a {type(module).__name__}, which keeps state between "
                "tokens; only attention can be served"
            )
    layers = {match.group(1) for name, _ in mixers if (match := re.match(r".*?\.(\d+)\.", name))}
    if len(layers) != num_layers or len(mixers) != num_layers:
        raise Refused(
            f"{directory}: {len(mixers)} attention modules in {len(layers)} of {num_layers} "
            "layers; exactly one in each can be served"
        )


def _mixers(skeleton: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    cached = [name for name, module in skeleton.named_modules() if _takes_cache(module)]
    for name in cached:
        if name and not any(other.startswith(f"{name}.") for other in cached):
            yield name, skeleton.get_submodule(name)


def _takes_cache(module: nn.Module) -> bool:
    return bool(CACHE_ARGUMENTS & inspect.signature(type(module).forward).parameters.keys())


def _find_experts(directory: Path, skeleton: nn.Module) -> tuple[ExpertsModule, ...]:
    found = []
    for name, module in skeleton.named_modules():
        if not vars(module).keys() >= EXPERTS_MARKS:
            continue
        shapes = [(key, tuple(p.shape)) for key, p in module.named_parameters(recurse=False)]
        counts = {shape[0] for _, shape in shapes}
        if len(counts) != 1:
            raise Refused(f"{directory}: parameters of {name} differ in their number of experts")
        shape = ExpertShape({key: size[1:] for key, size in shapes}, bool(module.is_transposed))
        found.append(ExpertsModule(name, counts.pop(), shape, _layout(module, shape)))
    if not found:
        kind = type(skeleton).__name__
        if any("expert" in name for name, _ in skeleton.named_modules()):
            raise Refused(f"{directory}: {kind} does not use transformers' experts interface")
        raise Refused(f"{directory}: {kind} is not a mixture of experts")
    return tuple(found)


def _layout(module: Any, shape: ExpertShape) -> Layout | None:
    """Asked of the module itself: a value that is not a number shows which neuron it reaches."""
    if not module.has_gate:
        return "single"
    num_neurons = shape.matrix("down_proj")[1]
    columns = [0, 1, num_neurons, 2 * num_neurons - 1]
    given = torch.zeros(len(columns), 2 * num_neurons)
    given[range(len(columns)), columns] = math.nan
    reached = module._apply_gate(given).isnan()
    if reached.shape != (len(columns), num_neurons) or not bool((reached.sum(1) == 1).all()):
        return None
    found = reached.int().argmax(1).tolist()
    if found == [column % num_neurons for column in columns]:
        return "halves"
    return "pairs" if found == [column // 2 for column in columns] else None
