"""Tries the architectures of transformers, each on tiny configs and without weights."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from representation.architecture.anatomy import study
from representation.architecture.config import MAPPINGS, config_of
from representation.architecture.errors import Unservable
from tests.support.checkpoints import tiny_config
from tests.support.served import served_fields

EXPERTS = re.compile(r"^class \w*(Experts|MoE|Moe|MOE|SparseMLP)\w*\(", re.MULTILINE)
"""What the file of a mixture of experts has, whether they go through the interface or not."""
LAYERS = 4


@dataclass(frozen=True, slots=True)
class Found:
    """What became of an architecture. `reason`: why it is not served; None: it is."""

    model_type: str
    name: str
    reason: str | None


def mixtures() -> Iterator[str]:
    """Model types that generate text and whose code has experts, sorted."""
    for model_type, kind in sorted(CONFIG_MAPPING.items()):
        text = dict(kind.sub_configs).get("text_config", kind)
        if _generates(kind) and any(map(_has_experts, {kind, text})):
            yield model_type


def tried(model_type: str) -> Found:
    """The first config that is served; if none is, why the first that can be built is not."""
    reasons = []
    for make in _configs(model_type):
        try:
            anatomy = study(config_of(make().to_dict()), torch.float32)
        except Unservable as error:
            reasons.append(str(error))
        except Exception as error:  # noqa: BLE001 -- a config class may raise anything
            reasons.append(f"its config cannot be read: {error}")
        else:
            return Found(model_type, type(anatomy.model).__name__, None)
    unbuilt = ("cannot be read", "cannot build", "not a mixture", "without any")
    reason = next((r for r in reasons if not any(u in r for u in unbuilt)), reasons[-1])
    return Found(model_type, _class_name(model_type), _one_line(reason))


def _configs(model_type: str) -> Iterator[Callable[[], Any]]:
    """A tiny one first, made of the fields that the class has; then its own defaults."""
    fields = served_fields(model_type)  # none for those of which the tests know a config
    few = {"num_hidden_layers": LAYERS} if fields else {}
    yield lambda: tiny_config(model_type, **{**few, **fields})
    yield partial(AutoConfig.for_model, model_type, num_hidden_layers=LAYERS)
    yield partial(AutoConfig.for_model, model_type)


def _generates(kind: Any) -> bool:
    return any(kind in auto._model_mapping for auto in MAPPINGS)


def _has_experts(kind: Any) -> bool:
    """Told by the text of its modeling file, which need not be imported for that."""
    package = inspect.getmodule(kind).__name__.rpartition(".")[0]  # type: ignore[union-attr]
    found = find_spec(f"{package}.modeling_{package.rpartition('.')[2]}")
    return found is not None and EXPERTS.search(Path(str(found.origin)).read_text()) is not None


def _class_name(model_type: str) -> str:
    kind = CONFIG_MAPPING[model_type]
    found = [auto._model_mapping for auto in MAPPINGS if kind in auto._model_mapping]
    return str(found[-1][kind].__name__)


def _one_line(reason: str) -> str:
    return re.sub(r"\s+", " ", reason).strip()
