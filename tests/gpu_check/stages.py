"""Checks of consolidation: its stages on the device against the same on the CPU.

What they need beyond torch and transformers is imported by the checks, so that others run without.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.gpu_check.ground import Ground

BUDGET = 0.8
TEXT = "The quick brown fox jumps over the lazy dog. " * 60
MOST_APART = 1.25
"""A device adds in another order, so it may choose other parts of nearly equal worth."""
LEAST_EQUAL = 0.999
"""Of codes: an error in the last place may tip one, and then all after it in its row."""


def consolidation_against_the_cpu(ground: Ground) -> dict[str, Any]:
    """All stages, twice on the device: the same release both times, and about the CPU's."""
    from consolidation.evaluation.verify import verify
    from consolidation.release import Registry
    from tests.consolidation.families import write_family
    from tests.consolidation.running import manifest_of, run_whole

    device = torch.device(ground.device)
    with TemporaryDirectory() as directory:
        root = Path(directory)
        family = write_family(root / "family", num_hidden_layers=2)
        (root / "text.txt").write_text(TEXT)
        models = {name: family[name] for name in ("one", "two")}
        wishes: dict[str, Any] = {
            "base": family["base"],
            "calibration": ((None, root / "text.txt"),),
            "texts": {"one": root / "text.txt"},
        }
        found, seconds = [], []
        for name, where in (("cpu", torch.device("cpu")), ("first", device), ("again", device)):
            began = time.monotonic()
            outcome = run_whole(root / name, models, BUDGET, device=where, **wishes)
            seconds.append(time.monotonic() - began)
            found.append(manifest_of(outcome))
        on_cpu, first, again = found
        assert first.id == again.id, f"{first.id}, and then {again.id}"
        findings = verify(Registry(str(root / "first"), "fam"), first.id, device=device)
    assert not findings, findings
    worst = max(first.quality[name].kl / max(on_cpu.quality[name].kl, 1e-7) for name in models)
    assert worst < MOST_APART, f"the divergence is {worst:.3g} × that of the CPU"
    ours, theirs = ([p for layer in m.layers for p in layer.slots] for m in (first, on_cpu))
    equal = len({p.digest for p in ours} & {p.digest for p in theirs}) / len(theirs)
    return {
        "KL over the CPU's": worst,
        "equal slots": f"{equal:.0%}",
        "bytes over the CPU's": first.expert_bytes_after / on_cpu.expert_bytes_after,
        "seconds": seconds[1],
        "of the CPU": seconds[0],
    }


def rounding_on_the_device(ground: Ground) -> dict[str, Any]:
    """Matrices of a published width, alone and together, against the codes of the CPU."""
    from consolidation.arithmetic.metric import Metric
    from consolidation.arithmetic.rounding import round_matrices, round_matrix
    from representation.formats import Packed

    num, rows, columns = (16, 1024, 2048) if ground.device == "cuda" else (4, 64, 512)
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(num, rows, columns, generator=generator)
    inputs = torch.randn(4 * columns, columns, generator=generator)
    blocks = inputs.unflatten(1, (-1, 256)).transpose(0, 1)  # (B, n, b)
    moments = blocks.transpose(1, 2) @ blocks / len(inputs)
    metric = Metric(torch.ones(rows), moments, columns)
    there = Metric(metric.gain.to(ground.device), moments.to(ground.device), columns)
    own = list(matrices.to(ground.device))
    figures: dict[str, Any] = {}
    for bits in (3, 6):
        fmt = Packed(bits, 128)
        together, together_ns = _timed(lambda fmt=fmt: round_matrices(own, fmt, [there] * num))
        alone, alone_ns = _timed(lambda fmt=fmt: [round_matrix(own[0], fmt, there)])
        assert torch.equal(alone[0].codes, together[0].codes), "together is not as alone"
        host, host_ns = _timed(lambda fmt=fmt: [round_matrix(matrices[0], fmt, metric)])
        equal = float((together[0].codes.cpu() == host[0].codes).float().mean())
        assert equal > LEAST_EQUAL, f"{bits} bits: {equal:.5f} of the codes are the CPU's"
        figures[f"{bits} bits"] = (
            f"{together_ns / num:.3g} ns a weight, alone {alone_ns:.3g}, on the CPU {host_ns:.3g}"
        )
        figures[f"{bits} bits, equal codes"] = equal
    return figures


def _timed(work: Any) -> tuple[Any, float]:
    """What the work gives the second time, and how long it takes, in ns for a weight of one."""
    for _ in range(2):
        _wait()
        began = time.monotonic()
        found = work()
        _wait()
        seconds = time.monotonic() - began
    return found, seconds * 1e9 / found[0].codes.numel()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
