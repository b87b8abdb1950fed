"""Consolidates a family on a card, in a process of its own, where the host may compute nothing.

    python -m tests.consolidation.on_card DIRECTORY

DIRECTORY has the checkpoints `base`, `one` and `two`, and `text.txt`. Prints what was found.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.data import encode, read_files
from consolidation.evaluation.evaluate import evaluate
from consolidation.evaluation.methods import ReleaseMethod
from consolidation.evaluation.verify import verify
from consolidation.release import Registry, ReleaseReader
from tests.consolidation.running import run
from tests.support.card import NothingComputedOnTheHost, card

ON_THE_HOST = ("representation/architecture/", "consolidation/checkpoints/", "consolidation/plan/")
"""What is computed there: what a model is, weights as they are read, and which plan is the best."""
BUDGET = 0.8


def wishes(directory: Path) -> dict[str, Any]:
    """Fields of the recipe."""
    text = directory / "text.txt"
    return {
        "budget": BUDGET,
        "base": directory / "base",
        "calibration": ((None, text),),
        "texts": {"one": text},
    }


def consolidated(directory: Path) -> dict[str, Any]:
    device = card()
    models = {name: directory / name for name in ("one", "two")}
    with NothingComputedOnTheHost(*ON_THE_HOST):
        release = run(directory / "registry", models, device=device, **wishes(directory)).release
        assert release is not None
        registry = Registry(str(directory / "registry"), "fam")
        findings = verify(registry, release, device=device)
        checkpoints = {"one": open_checkpoint(models["one"])}
        data = encode(read_files({}, {"one": directory / "text.txt"}), checkpoints)
        methods = [ReleaseMethod(ReleaseReader(registry, release), device)]
        base = open_checkpoint(directory / "base")
        (score,) = evaluate(checkpoints, data, methods, base=base, device=device)
    return {"release": release, "findings": findings, "kl": score.mean_kl}


def check_the_card() -> None:
    """What this is to find is found."""
    there = torch.ones(3, device=card())
    with pytest.raises(RuntimeError, match="on the host beside the card"):
        there + torch.ones(3)
    with NothingComputedOnTheHost("nowhere"):
        assert (there * 2).sum().item() == 6
        with pytest.raises(AssertionError, match="mul computes"):
            torch.ones(3) * 2


if __name__ == "__main__":
    check_the_card()
    print(json.dumps(consolidated(Path(sys.argv[1]))))
