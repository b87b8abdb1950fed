"""A random release on disk is the one in memory."""

import json
from pathlib import Path

import pytest
import torch

from consolidation.release import Registry, ReleaseReader
from serve_app.bench.http.publishing import publish
from serve_app.bench.weights.random_release import RandomRelease
from tests.bench.tiny import tiny_config


def test_what_is_read_from_the_registry_is_what_was_made(tmp_path: Path) -> None:
    source = RandomRelease(tiny_config(), 2)
    registry = Registry(str(tmp_path), "random")
    found = ReleaseReader(registry, publish(source, registry))
    assert found.dtype == source.dtype
    for number, layer in enumerate(source.layers):
        assert found.layers[number].module == layer.module
        for slot in range(len(layer.slots)):
            _assert_same(found.read_slot(number, slot), source.read_slot(number, slot))
    for name, model in source.models.items():
        assert found.models[name].expert_map == model.expert_map
        assert found.models[name].config == json.loads(json.dumps(model.config))
        _assert_same(dict(found.read_backbone(name)), dict(source.read_backbone(name)))


def test_a_release_with_residuals_is_not_written(tmp_path: Path) -> None:
    source = RandomRelease(tiny_config(), 1, residuals=("rank-2",))
    with pytest.raises(AssertionError, match="residuals"):
        publish(source, Registry(str(tmp_path), "random"))


def _assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
