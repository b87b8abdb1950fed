"""Checkpoints of published shapes with random weights, written tensor by tensor. Measures nothing.

They lie on disk as published ones do: bfloat16 in safetensors shards, one for each decoder layer,
under the names that transformers' own conversion gives. One tensor is in memory at a time.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.core_model_loading import revert_weight_conversion

from representation.architecture.config import config_of
from representation.architecture.skeleton import meta_model
from serve_app.bench.result.measured import OnProgress
from serve_app.bench.weights.word_tokenizer import tokenizer_of
from serve_app.errors import ConfigError

SIZE = 0.02
"""Standard deviation of weights, as transformers initialises them."""
CHANGE = 3e-4
"""Standard deviation of what a full fine-tune adds to each weight."""
INDEX = "model.safetensors.index.json"
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
"""Those of `word_tokenizer`."""
FUSED = 3
"""Dimensions of a tensor that holds the matrices of all experts of a layer."""
STAGE = "MiB written"

Shape = Sequence[int]
Make = Callable[[str, Shape], torch.Tensor]
"""The tensor of this stored name and shape."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Random numbers by seed and name, whatever the order in which they are asked for."""

    seed: int

    def generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def normal(self, name: str, shape: Shape, size: float, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of normal numbers with this standard deviation."""
        return torch.empty(shape, dtype=dtype).normal_(0, size, generator=self.generator(name))

    def half(self, name: str, count: int) -> frozenset[int]:
        """Half of the numbers below `count`."""
        order = torch.randperm(count, generator=self.generator(name))
        return frozenset(order[: count // 2].tolist())


def write_base(
    directory: Path,
    config: Mapping[str, Any],
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Write a checkpoint of this config with random weights.

    Raises: ConfigError if the directory is there already; Unservable.
    """
    drawing = Drawing(seed)

    def make(name: str, shape: Shape) -> torch.Tensor:
        if len(shape) == 1 and name.endswith("norm.weight"):
            return torch.ones(shape, dtype=torch.bfloat16)
        return drawing.normal(name, shape, SIZE, torch.bfloat16)

    _write(directory, {**config, **TOKENS}, make, on_progress)


def write_tuned(
    directory: Path, base: Path, seed: int = 1, on_progress: OnProgress = lambda *_: None
) -> None:
    """Write a fine-tune of a checkpoint that was written here.

    In every layer half of the experts have differences of full rank from the base, of the size that
    a fine-tune has. Everything else is the base's.   Raises: ConfigError, Unservable.
    """
    drawing = Drawing(seed)
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        shards = json.loads((base / INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{base}: not a checkpoint that can be tuned: {error}") from error

    def make(name: str, shape: Shape) -> torch.Tensor:
        with safe_open(base / shards[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        for index in _of_experts(name, shape):
            if index in drawing.half(_layer_of(name), _num_experts(config)):
                part = tensor[index] if len(shape) == FUSED else tensor
                change = drawing.normal(f"{name} {index}", part.shape, CHANGE, torch.float32)
                part.copy_(change.add_(part))
        return tensor

    _write(directory, config, make, on_progress)


def _of_experts(name: str, shape: Shape) -> Sequence[int]:
    """The experts whose matrices a stored tensor holds; none for biases and the backbone."""
    alone = re.search(r"\.experts\.(\d+)\.", name)
    if alone is not None:
        return (int(alone.group(1)),)
    return range(shape[0]) if ".experts." in name and len(shape) == FUSED else ()


def _num_experts(config: Mapping[str, Any]) -> int:
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return next(int(config[name]) for name in names if name in config)


def _layer_of(name: str) -> str:
    """What the names of a decoder layer's tensors begin with; empty outside of them."""
    found = re.match(r".*?\.layers\.\d+\.", name)
    return found.group() if found else ""


def _write(directory: Path, config: Mapping[str, Any], make: Make, on_progress: OnProgress) -> None:
    built = config_of(config)
    model = meta_model(built, torch.bfloat16)
    stored = revert_weight_conversion(model, dict(model.state_dict()))
    tied = set(model.all_tied_weights_keys)
    shapes = {name: t.shape for name, t in stored.items() if name not in tied}
    layers: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        layers.setdefault(_layer_of(name), {})[name] = shape
    total = sum(_num_bytes(shape) for shape in shapes.values())
    with _appearing(directory) as place:
        built.architectures, built.dtype = [type(model).__name__], "bfloat16"
        built.save_pretrained(place)
        tokenizer_of(built.vocab_size).save_pretrained(place)
        _write_json(place / "generation_config.json", {"do_sample": False, **TOKENS})
        weight_map = {}
        done = 0
        for number, found in enumerate(layers.values(), start=1):
            file = f"model-{number:05}-of-{len(layers):05}.safetensors"
            for name in _write_shard(place / file, found, make):
                weight_map[name] = file
                done += _num_bytes(shapes[name])
                on_progress(STAGE, done >> 20, total >> 20)
        _write_json(place / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_shard(path: Path, shapes: Mapping[str, Shape], make: Make) -> Iterator[str]:
    """Write a safetensors file: a length, a JSON header, the data. -> each name once written"""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + _num_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    with path.open("xb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        for name, shape in shapes.items():
            tensor = make(name, shape)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            yield name


def _num_bytes(shape: Shape) -> int:
    return torch.Size(shape).numel() * torch.bfloat16.itemsize


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """A directory that has its name once the block has ended well; else nothing is left of it."""
    if directory.exists():
        raise ConfigError(f"{directory} is there already")
    place = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
        yield place
        place.rename(directory)
    finally:
        shutil.rmtree(place, ignore_errors=True)
