"""A hub on this machine with one model, and a cache of its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.checkpoints import write_checkpoint
from tests.support.here import Here
from tests.support.hub_server import Hub, hub_server

NAME = "org/tiny"
NEEDLESS = (
    "README.md",
    "consolidated.safetensors",
    "model.gguf",
    "original/consolidated.00.pth",
    "pytorch_model.bin",
    "model-other.safetensors",
)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of several shards, with what people leave beside one."""
    directory = tmp_path_factory.mktemp("sharded") / "tiny"
    write_checkpoint(directory, "mixtral", max_shard_size="40KB", num_hidden_layers=1)
    for name in NEEDLESS:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"x" * 1000)
    return directory


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of huggingface_hub, empty; it is online, and finds no token."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def hub(sharded: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as found:
        use_hub(found.url, monkeypatch)
        found.put(NAME, sharded)
        yield found


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`consolidate` computes in this process."""
    monkeypatch.setattr("serve_app.cli.consolidate.LazyRay", Here)


def use_hub(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    files = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + files)


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
