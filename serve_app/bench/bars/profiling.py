"""How much of a step on the CPU is products: by torch's profiler, and by a clock on calls."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.autograd.profiler import profile, record_function

from serve_app.engine.device.native.parts import CompiledParts
from serve_app.engine.device.native.products import Products
from serve_app.engine.states.packed_mixer import PackedMixer

PRODUCTS = frozenset(
    f"aten::{name}"
    for name in (
        *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_grouped_mm"),
        *("_mkl_linear", "mkldnn_linear", "_scaled_dot_product_flash_attention_for_cpu"),
    )
)
COMPILED = "expertpool::products"
STATE_CALLS = ((PackedMixer, "convolve"), (PackedMixer, "recur"))
EXPERTS_CALLS = ((CompiledParts, "multiply"), (CompiledParts, "experts"))
COMPILED_CALLS = ((Products, "multiply"), *EXPERTS_CALLS)
COPY = "aten::copy_"
LEAST_SIDE = 128
"""Matrices with at least this many rows and columns are weights: steps have fewer tokens."""
QUIET = {"KINETO_LOG_LEVEL": "6"}
"""Otherwise the profiler prints on stderr whenever it starts and stops."""


def profiled(run: Callable[[], float]) -> tuple[float, float]:
    """-> the seconds that `run` returns, and how many of them were matrix products

    A product includes the copy of its weights to another dtype. Profiling itself takes a little
    time with every operation, which counts as outside.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _wrapped(COMPILED_CALLS, _told), profile(record_shapes=True) as found:
        seconds = run()
    # The profiler's own tables would take longer than the step.
    events = found.kineto_results.events()
    return seconds, product_seconds(events)


class CallClock:
    """Counts and times calls of methods: by default of compiled code for experts.

    calls, seconds: so far
    """

    def __init__(self, methods: Iterable[tuple[type, str]] = EXPERTS_CALLS) -> None:
        self.calls, self.seconds = 0, 0.0
        self._methods = tuple(methods)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts while it is open."""
        with _wrapped(self._methods, self._timed):
            yield

    def _timed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            found = original(*args, **kwargs)
            self.seconds += time.perf_counter() - began
            self.calls += 1
            return found

        return call


@contextmanager
def _wrapped(
    calls: Iterable[tuple[type, str]], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """While it is open, methods of classes are what `wrap` makes of them."""
    originals = {(kind, name): getattr(kind, name) for kind, name in calls}
    for (kind, name), original in originals.items():
        setattr(kind, name, wrap(original))
    try:
        yield
    finally:
        for (kind, name), original in originals.items():
            setattr(kind, name, original)


def _told(original: Callable[..., Any]) -> Callable[..., Any]:
    """Tells the profiler about a compiled product: by itself it sees only torch's operations."""

    def call(*args: Any) -> Any:
        with record_function(COMPILED):
            return original(*args)

    return call


def product_seconds(events: Iterable[Any]) -> float:
    """The time in a profile's raw events during which a product ran; events may be nested."""
    spans = sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if _is_product(event.name(), event.shapes())
    )
    total, reached = 0, 0
    for start, end in spans:
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e9


def _is_product(name: str, shapes: list[list[int]]) -> bool:
    if name != COPY:
        return name in PRODUCTS or name == COMPILED
    return bool(shapes) and len(shapes[0]) > 1 and min(shapes[0][-2:]) >= LEAST_SIDE
