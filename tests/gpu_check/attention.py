"""Each compiled form of attention against the plain one, on random input."""

from typing import Any

import torch

from representation.architecture.attention import AttentionShape
from serve_app.engine.attention.form import AttentionForm
from serve_app.engine.attention.forms import PROBE_CHUNKS, makers, probe
from serve_app.engine.attention.gather import Gather
from serve_app.engine.device.trial import attention_difference
from serve_app.engine.unit_bytes import BLOCK_SIZE
from tests.gpu_check.ground import Ground

SHAPES = {
    "grouped": AttentionShape(32, 8, 128, 128),
    "narrow": AttentionShape(8, 4, 64, 64),
    "wide keys": AttentionShape(16, 16, 192, 128),
    "capped": AttentionShape(8, 4, 64, 64, softcap=20.0),
}
STEPS = {"mixed": PROBE_CHUNKS, "decode": tuple((1, total) for _, total in PROBE_CHUNKS)}
WINDOWS = (None, 24)
CANNOT = (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a form raises for a shape that it does not have; the engine then takes another form."""


def attention_forms(ground: Ground) -> dict[str, Any]:
    """By form: how many combinations it computes, all of them right. One form must be there."""
    device, found, there = torch.device(ground.device), {}, False
    for name, make in makers(device):
        try:
            form = make()
        except (ImportError, ValueError, RuntimeError) as error:
            found[name] = f"not available ({error})"
            continue
        equal, refused = _compared(form, device)
        assert equal, f"{name} refuses everything"
        found[name] = f"{equal} equal, {refused} refused"
        there = True
    assert there, f"there is no form but the plain one: {found}"
    return found


def _compared(form: AttentionForm, device: torch.device) -> tuple[int, int]:
    """How many combinations are equal, and how many it refuses. AssertionError if one differs."""
    equal = refused = 0
    for name, shape in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            for window in WINDOWS:
                for sinks in (False, True):
                    for kind, step in STEPS.items():
                        call = probe(shape, window, step, BLOCK_SIZE, dtype, device, sinks=sinks)
                        try:
                            got = form.attend(call)
                        except CANNOT:
                            refused += 1
                            continue
                        differs = attention_difference(got, Gather().attend(call), "gather")
                        what = f"{form.name}, {name}, {dtype}, window {window}, sinks {sinks}"
                        assert differs is None, f"{what}, {kind}: {differs}"
                        equal += 1
    return equal, refused
