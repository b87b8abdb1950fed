"""Every architecture that is listed is served, and every one that is served is listed."""

import inspect
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from representation.architecture.anatomy import Anatomy, study
from representation.architecture.config import config_of
from representation.architecture.errors import Unservable
from representation.encoder_decoder.position_bias import TABLE
from representation.text_fields import text_fields
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.model.replacing import Sizes
from tests.support.checkpoints import tiny_config
from tests.support.served import AT_ONCE, SERVED, TRANSFORMERS, served_fields


def fields_of(model_type: str) -> dict[str, Any]:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {version('transformers')} has no {model_type}")
    fields: dict[str, Any] = tiny_config(model_type, **served_fields(model_type)).to_dict()
    return fields


STUDIED: dict[str, Anatomy] = {}


def anatomy_of(model_type: str) -> Anatomy:
    if model_type not in STUDIED:
        STUDIED[model_type] = study(config_of(fields_of(model_type)), torch.float32)
    return STUDIED[model_type]


@pytest.mark.parametrize("model_type", SERVED)
def test_each_architecture_is_built_and_studied(model_type: str) -> None:
    fields, anatomy = fields_of(model_type), anatomy_of(model_type)
    num_mixers = len(anatomy.attentions) + len(anatomy.recurrent)
    fields = dict(text_fields(fields))
    blocks = fields.get("layers_block_type")  # of which each is a mixer or experts
    if fields.get("is_encoder_decoder"):  # the decoder's layers attend to the encoder as well
        assert num_mixers == fields["num_layers"] + 2 * fields["num_decoder_layers"]
    else:
        assert num_mixers == (fields["num_hidden_layers"] if blocks is None else 4)
    assert all(module.num_experts > 1 for module in anatomy.experts.values())
    assert anatomy.prompt_at_once == (model_type in AT_ONCE)
    owned = {name for name, _ in anatomy.model.named_parameters()}
    of_experts = {
        f"{path}.{name}"
        for path, module in anatomy.experts.items()
        for name in module.shape.parameters
    }
    assert owned <= of_experts | anatomy.tensors.keys(), "nothing is left over"


@pytest.mark.parametrize("model_type", SERVED)
def test_the_engine_packs_each_architecture(model_type: str) -> None:
    fields, anatomy = fields_of(model_type), anatomy_of(model_type)
    del STUDIED[model_type]  # its model becomes the packed one
    num_layers = len(anatomy.experts)
    sizes = Sizes(num_places=1, shelves=({},) * num_layers, num_blocks=1, block_size=16)
    cpu = torch.device("cpu")
    packed = PackedModel(anatomy, sizes, dtype=torch.float32, device=cpu)
    packed.register_row(0, packed.configured(fields))
    found = {kind.bias for kind in anatomy.kinds.values() if kind.bias is not None}
    tables = {f"{path}.{TABLE}.weight" for path in found}  # read from stacks
    left = {name for name, _ in packed._model.named_parameters()} - tables
    # Each stack of an encoder–decoder looks tokens up in a module of its own.
    idle = {"shared.weight"} if anatomy.config.is_encoder_decoder else set()
    assert left == idle, "what nothing replaces would be random"
    assert packed.pool.keys() == packed._experts.keys()


def _goes_through_the_interface(model_type: str) -> bool:
    """Told by the text of its modeling file, which need not be imported for that."""
    kind = CONFIG_MAPPING[model_type]
    package = inspect.getmodule(kind).__name__.rpartition(".")[0]  # type: ignore[union-attr]
    folder = package.rpartition(".")[2]
    found = find_spec(f"{package}.modeling_{folder}")
    return found is not None and "use_experts_implementation" in Path(str(found.origin)).read_text()


def _is_served(model_type: str) -> bool:
    try:
        config = AutoConfig.for_model(model_type, num_hidden_layers=4)
        study(config_of(config.to_dict()), torch.float32)
    except Unservable:
        return False
    except Exception:  # noqa: BLE001 -- a config class that wants more fields is not of interest
        return False
    return True


def test_every_architecture_that_is_served_is_listed() -> None:
    """Where transformers is a newer one, this points at what to list. Goes by default configs."""
    others = [
        name
        for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if name in CONFIG_MAPPING and name not in SERVED and _goes_through_the_interface(name)
    ]
    assert others
    unlisted = sorted(filter(_is_served, others))
    here = version("transformers")
    if unlisted and not here.startswith(f"{TRANSFORMERS}."):
        pytest.skip(f"to be listed: transformers {here} has {', '.join(unlisted)}, and they fit")
    assert not unlisted
