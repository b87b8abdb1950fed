"""Tiny families for tests of the pipeline: a base, and models tuned from it. Not trained."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import write_checkpoint


def tune(source: Path, target: Path, seed: int, *, experts: float, backbone: float = 0.05) -> Path:
    """A copy of a checkpoint with noise on its experts and on everything else."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(source / "model.safetensors")
    for name in sorted(tensors):
        size = experts if ".experts." in name else backbone
        noise = torch.randn(tensors[name].shape, generator=generator) * size
        tensors[name] = (tensors[name].float() + noise).to(tensors[name].dtype)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def write_family(root: Path, architecture: str = "mixtral", **overrides: Any) -> dict[str, Path]:
    """`one` and `two` tuned from a base in all weights, `frozen` with the experts left alone."""
    base = write_checkpoint(root / "base", architecture, **overrides)
    return {
        "base": base,
        "one": tune(base, root / "one", 1, experts=0.02),
        "two": tune(base, root / "two", 2, experts=0.02),
        "frozen": tune(base, root / "frozen", 3, experts=0.0),
    }
