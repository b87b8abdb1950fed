"""Manifests made up for tests of the report: digests of nothing, bytes of their formats."""

import hashlib
from collections.abc import Mapping, Sequence

from consolidation.evaluation.measures import MethodScore, ModelScore
from consolidation.release import Layer, Manifest, Model, Part, Quality, expert_bytes

MATRICES = {"gate_up_proj": (48, 32), "down_proj": (32, 24)}
Held = tuple[str, tuple[str, ...]]
"""One expert: which slot it is made of, as `name/format`, and the formats of its residuals."""


def part(label: str, *whose: object) -> Part:
    """label: `rank-1@down_proj` is of a residual for that matrix alone."""
    digest = hashlib.sha256(repr((label, whose)).encode()).hexdigest()
    fmt, *matrices = label.split("@")
    return Part(digest=digest, bytes=1000 + len(label), format=fmt, matrices=tuple(matrices))


def manifest(
    models: Mapping[str, Sequence[Sequence[Held]]], quality: Mapping[str, Quality] | None = None
) -> Manifest:
    """A release of models given by layer and expert. Slots of one name in a layer are shared."""
    num_layers = len(next(iter(models.values())))
    layers = []
    expert_maps: dict[str, list[list[int]]] = {name: [] for name in models}
    residual_maps: dict[str, list[list[list[int]]]] = {name: [] for name in models}
    for layer in range(num_layers):
        slots: dict[str, Part] = {}
        residuals: list[Part] = []
        for name, rows in models.items():
            chosen, added = [], []
            for index, (slot, formats) in enumerate(rows[layer]):
                slots.setdefault(slot, part(slot.split("/")[1], layer, slot))
                chosen.append(list(slots).index(slot))
                first = len(residuals)
                residuals += [part(label, layer, name, index) for label in formats]
                added.append(list(range(first, len(residuals))))
            expert_maps[name].append(chosen)
            residual_maps[name].append(added)
        layers.append(
            Layer(
                module=f"model.layers.{layer}.mlp.experts",
                parameters=MATRICES,
                slots=tuple(slots.values()),
                residuals=tuple(residuals),
            )
        )
    made = {name: model(name, expert_maps[name], residual_maps[name]) for name in models}
    return Manifest(
        family="tiny",
        architecture="MixtralForCausalLM",
        dtype="bfloat16",
        layers=tuple(layers),
        models=made,
        expert_bytes_before=100_000,
        expert_bytes_after=expert_bytes(layers, made),
        expert_bytes_one_model=50_000,
        quality=dict(quality or {}),
        provenance={},
    )


def model(name: str, experts: list[list[int]], residuals: list[list[list[int]]]) -> Model:
    return Model.model_validate(
        {
            "config": {},
            "generation_config": {},
            "tokenizer_files": {},
            "backbone": [{"digest": part("dense", name).digest, "bytes": 2**20}],
            "expert_map": experts,
            "residual_map": residuals if any(any(row) for row in residuals) else [],
            "source": {"name": name, "digest": "0" * 64},
        }
    )


def quality(kl: float, predicted: float | None) -> Quality:
    return Quality(
        kl=kl, predicted_kl=predicted, perplexity_original=50.0, perplexity_release=51.5, tokens=9
    )


def score(method: str, ratio: float, **kls: float) -> MethodScore:
    """A method measured on models by name; the first has a text, the others have tasks."""
    models = tuple(
        ModelScore(
            model=name,
            kl=kl,
            kl_99=4 * kl,
            kl_999=8 * kl,
            rms_dp=0.0625,
            perplexity=None if place else 20.25,
            perplexity_original=None if place else 20.0,
            accuracy=0.75 if place else None,
            accuracy_original=0.8125 if place else None,
            token_agreement=0.875,
            router_agreement=(0.5, 0.75),
            tokens=9,
            predicted_kl=kl / 2 if method.startswith("release") else None,
            kl_base=0.5,
        )
        for place, (name, kl) in enumerate(kls.items())
    )
    return MethodScore(method, int(ratio * 50_000), ratio, models)
