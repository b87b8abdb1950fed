"""Releases put together from parts of one that consolidation made. Writes manifests, no tensors."""

from collections.abc import Mapping
from typing import Any, TypeVar

from consolidation.release import Layer, Manifest, Model, Registry

Record = TypeVar("Record", Manifest, Model, Layer)


def composed(whole: Manifest, models: Mapping[str, str]) -> Manifest:
    """A manifest of some of the models, with the slots that they need and no others.

    models: by the name that each is to have, its name in `whole`, whose experts are all slots.
    """
    assert not any(layer.residuals for layer in whole.layers), "the experts are slots alone"
    chosen = {name: whole.models[of] for name, of in models.items()}
    layers, maps = [], {name: list[tuple[int, ...]]() for name in chosen}
    for position, layer in enumerate(whole.layers):
        used = sorted({slot for model in chosen.values() for slot in model.expert_map[position]})
        row_of = {slot: row for row, slot in enumerate(used)}
        layers.append(_with(layer, slots=tuple(layer.slots[slot] for slot in used)))
        for name, model in chosen.items():
            maps[name].append(tuple(row_of[slot] for slot in model.expert_map[position]))
    return _with(
        whole,
        layers=tuple(layers),
        models={name: _with(model, expert_map=tuple(maps[name])) for name, model in chosen.items()},
        quality={name: whole.quality[of] for name, of in models.items()},
    )


def with_config(manifest: Manifest, model: str, **fields: Any) -> Manifest:
    """The same with some fields of one model's config changed."""
    changed = manifest.models[model]
    return with_model(manifest, model, _with(changed, config={**changed.config, **fields}))


def with_model(manifest: Manifest, name: str, model: Model) -> Manifest:
    return _with(manifest, models={**manifest.models, name: model})


def with_template(manifest: Manifest, name: str, template: str, registry: Registry) -> Manifest:
    """The same with another chat template of one model, which is written to the registry."""
    model = manifest.models[name]
    blob = registry.write_blob(template.encode(), suffix="bin")
    files = {**model.tokenizer_files, "chat_template.jinja": blob}
    return with_model(manifest, name, _with(model, tokenizer_files=files))


def _with(record: Record, **fields: Any) -> Record:
    """Checked as if it were read."""
    plain = {name: getattr(record, name) for name in type(record).model_fields}
    return type(record).model_validate({**plain, **fields})
