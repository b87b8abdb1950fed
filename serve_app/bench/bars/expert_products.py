"""How fast compiled code reads codes, and how often it is called for a layer. No Ray, no HTTP."""

import time
from collections.abc import Callable, Sequence

import torch

from serve_app.bench.bars.decoding import Decoding, open_engine
from serve_app.bench.bars.profiling import CallClock
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.session import Session, running
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.device.laid import GROUP, LaidShelf, Plane, Planes
from serve_app.engine.device.native.library import native
from serve_app.engine.device.native.parts import CompiledParts, LaidShelves

NUM_MATRICES, SIDE = 24, 4096
"""4-bit matrices of 8 MiB each: several times what caches hold."""
TIMES = 12
"""How often all matrices are read, and copied, in turn. The fastest of each counts."""
PACKED = tuple(f"packed-{bits}-128" for bits in (1, 2, 3, 5, 6, 7, 8))
TWELVE = ("packed-4-128", (*PACKED, "split-8-128", "rank-2", "rank-4", "rank-8"))
"""A slot and eleven residuals for each expert, all in different formats."""
FEW = Decoding(sequences=2, context=4, steps=2, step_tokens=64)


def codes_read_over_copied(
    on_progress: OnProgress = lambda *_: None, num_matrices: int = NUM_MATRICES, side: int = SIDE
) -> Measured:
    """Bytes of 4-bit codes that are read in a second for one row each, with activations in 8 bits,
    divided by the bytes of the same codes that are copied in a second. All cores work on both.

    Raises: ValueError if nothing was compiled for this CPU.
    """
    code = native()
    if code is None:
        raise ValueError("there is no compiled code for this CPU")
    parts = CompiledParts(code)
    codes = torch.randint(0, 256, (num_matrices, side, side // 2), dtype=torch.uint8)  # (P, O, I/2)
    scales = torch.full((num_matrices, side, side // GROUP), 0.01, dtype=torch.bfloat16)
    shelf = LaidShelf(torch.arange(num_matrices), Planes([Plane(codes, 4)], scales, 0))
    laid, copied = LaidShelves([shelf]), torch.empty_like(codes)
    x = torch.randn((num_matrices, side), generator=torch.Generator().manual_seed(0))  # (P, I)
    rows, entries = x.to(torch.bfloat16), torch.arange(num_matrices)
    read_s, copy_s = float("inf"), float("inf")
    for number in range(TIMES):
        on_progress("codes read and copied", number, TIMES)
        read_s = min(read_s, _seconds(lambda: parts.multiply(laid, entries, rows, side)))
        copy_s = min(copy_s, _seconds(lambda: copied.copy_(codes)))
    on_progress("codes read and copied", TIMES, TIMES)
    facts = {"read_bytes_s": codes.nbytes / read_s, "copied_bytes_s": codes.nbytes / copy_s}
    return Measured(copy_s / read_s, facts)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def launches_a_layer(
    make: Callable[[str, Sequence[str]], RandomRelease], wanted: Decoding = FEW
) -> Measured:
    """The most calls of compiled code for the experts of a layer in a decode step, counted with
    slots of one format, and with twelve formats.

    make: a release with slots and residuals in these formats.   Raises: ValueError as above.
    """
    found = {}
    for slots, residuals in (("packed-4-128", ()), TWELVE):
        source, clock = make(slots, residuals), CallClock()
        names = sorted(source.models)
        with running(open_engine(source, wanted), source) as engine:
            session = Session(engine, source, step_tokens=wanted.step_tokens)
            session.begin(names * wanted.sequences, wanted.context, wanted.steps)
            with clock.running():
                session.step()
            session.end()
        if not clock.calls:
            raise ValueError("experts were not computed by compiled code")
        found[f"{1 + len(residuals)}_formats"] = clock.calls / len(source.layers)
    return Measured(max(found.values()), found)
