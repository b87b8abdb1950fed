"""A registry with two small releases, made without reading a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest

from consolidation.release import (
    Layer,
    Manifest,
    Model,
    Part,
    Quality,
    Registry,
    Source,
    expert_bytes,
)
from consolidation.release.tensors import encode_tensors
from serve_app.cli.main import run


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    directory = tmp_path / "registry"
    directory.mkdir()
    return Registry(str(directory), "tiny")


@pytest.fixture
def publish(registry: Registry) -> Callable[[str], str]:
    """Publishes a release of one model of that name; gives its id."""

    def publish(name: str) -> str:
        slot = registry.write_blob(encode_tensors({}))
        layers = (
            Layer(
                module="model.layers.0.mlp.experts",
                parameters={"up": (2, 3)},
                slots=(Part(digest=slot.digest, bytes=slot.bytes),),
            ),
        )
        model = Model(
            config={},
            generation_config={},
            tokenizer_files={},
            backbone=(registry.write_backbone({}),),
            expert_map=((0, 0),),
            source=Source(name=name, digest="0" * 64),
        )
        after = expert_bytes(layers, {name: model})
        manifest = Manifest(
            family="tiny",
            architecture="MixtralForCausalLM",
            dtype="float32",
            layers=layers,
            models={name: model},
            expert_bytes_before=10 * after,
            expert_bytes_after=after,
            expert_bytes_one_model=2 * after,
            quality={
                name: Quality(kl=0.25, perplexity_original=3.0, perplexity_release=4.0, tokens=7)
            },
            provenance={},
        )
        return registry.publish(manifest)

    return publish


@pytest.fixture
def call(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `expertpool COMMAND … --family tiny --registry DIR`; gives code, stdout, stderr."""

    def call(command: str, *arguments: str) -> tuple[int, str, str]:
        place = ["--family", "tiny", "--registry", registry.url]
        code = run([command, *arguments, *place])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
