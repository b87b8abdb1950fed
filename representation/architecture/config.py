"""What a model's config says, and which configs are refused from their fields. Builds no model."""

import json
from collections.abc import Mapping
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
)

from representation.architecture.errors import Unservable
from representation.strange_floats import with_floats, without_floats

LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "linear_attention", "conv", "moe"})
OTHER_MEDIA = ("text_config", "vision_config", "audio_config")
"""Fields that only wrappers have."""
MAPPINGS: tuple[Any, ...] = (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
)
"""Where transformers lists its models that generate text, each by the class of its config."""
UNSAVED_FIELDS = ("_name_or_path", "transformers_version", "auto_map", "_commit_hash")
"""Fields that say where a config came from; a release leaves them out."""
NOT_OF_THE_MODEL = ("auto_map", "quantization_config")
"""Fields about code that is never run, and about how files store weights, which readers undo."""
OUTPUTS: Mapping[str, bool] = {
    "output_attentions": False,
    "output_hidden_states": False,
    "output_router_logits": False,
    "return_dict": True,
}
"""Fields about what a model returns beside its logits, with the values that all models get."""


def config_of(fields: Mapping[str, Any]) -> Any:
    """The transformers config of a checkpoint's `config.json`, or of a manifest's `config`.

    Never runs code that a config names: its class is one of transformers' own.
    Raises: Unservable.
    """
    model_type = _model_type(fields)
    known = CONFIG_MAPPING[model_type].sub_configs
    strange = [key for key in OTHER_MEDIA if key in fields and key not in known]
    if strange:
        raise Unservable(f"{model_type} has a {strange[0]}, which no {model_type} has")
    own = {key: value for key, value in fields.items() if key not in NOT_OF_THE_MODEL}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(with_floats(own))
    except Exception as error:  # transformers raises many classes for configs it cannot read
        raise Unservable(f"its config cannot be read: {error}") from error
    ask_for_logits_alone(config)
    if not model_classes(config):
        raise Unservable(f"{model_type} is not a language model that generates text")
    for kind in getattr(config.get_text_config(), "layer_types", None) or ():
        if kind not in LAYER_TYPES:
            raise Unservable(f"{model_type} has layers of type {str(kind)!r}, which are not served")
    return config


def model_classes(config: Any) -> list[Any]:
    """transformers' classes that generate text and are made from this very kind of config."""
    kind = CONFIG_MAPPING[config.model_type]
    mappings = [auto._model_mapping for auto in MAPPINGS]
    found = [mapping[kind] for mapping in mappings if kind in mapping]
    return [one for one in dict.fromkeys(found) if one.config_class is kind]


def is_wrapper(config: Any) -> bool:
    """Whether the config is that of a text model and of other towers, which are not served."""
    return config.get_text_config() is not config


def tower_fields(config: Any) -> list[str]:
    """The fields of a wrapper's config that are configs of its other towers."""
    text = config.get_text_config()
    return [name for name in config.sub_configs if getattr(config, name, None) is not text]


def ask_for_logits_alone(config: Any) -> None:
    """Turn off what a config asks for beside logits."""
    for part in (config, config.get_text_config()):
        for name, usual in OUTPUTS.items():
            if getattr(part, name, usual) != usual:
                setattr(part, name, usual)


def _model_type(fields: Mapping[str, Any]) -> str:
    """The model type, if transformers knows it. Raises: Unservable for what the fields show."""
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        if "auto_map" in fields:
            raise Unservable(f"model_type {model_type!r} needs custom code, which is never run")
        raise Unservable(f"model_type {model_type!r}: this transformers does not know it")
    return model_type


def plain_config(config: Any) -> dict[str, Any]:
    """The whole config as JSON values, without the fields about its origin.

    Those of a wrapper's parts say no dtype: that of the whole is theirs.
    """
    found = without_floats(config.to_dict())
    content = json.loads(json.dumps(found, sort_keys=True, default=str))
    for part in config.sub_configs:
        (content[part] or {}).pop("dtype", None)
    return {key: value for key, value in content.items() if key not in UNSAVED_FIELDS}


def rope_fields(config: Any) -> dict[str, Any]:
    """The fields of a text model's config that rotary angles and attention may depend on."""
    fields = config.get_text_config().to_dict()
    wanted = ("rope", "max_position", "partial_rotary", "original_max")
    return {key: fields[key] for key in sorted(fields) if any(w in key for w in wanted)}


def decoder_beginning(config: Any) -> tuple[int, ...]:
    """The tokens with which a decoder begins that has an encoder; none for other decoders.

    Raises: Unservable for a config that does not say.
    """
    if not config.is_encoder_decoder:
        return ()
    first = getattr(config, "decoder_start_token_id", None)
    if first is None:
        raise Unservable(f"{config.model_type}: its config has no decoder_start_token_id")
    return (int(first),)


def vocabulary_size(config: Any) -> int:
    """The size of a model's vocabulary."""
    return int(config.get_text_config().vocab_size)


def context_limit(config: Any) -> int | None:
    """The most tokens that a sequence of a model may have; None if the config sets no limit."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    if not length:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        return int(length * rope.get("factor", 1.0))
    return int(length)
