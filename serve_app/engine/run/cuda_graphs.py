"""Records operations as CUDA graphs. Knows nothing about steps."""

from collections.abc import Callable

import torch

from serve_app.engine.run.captures import Capture, GraphBackend

NUM_WARMUPS = 2
"""Runs before a capture, in which libraries initialise, and compile and choose kernels."""


class _CudaCapture:
    """One graph, and where it writes its result."""

    def __init__(self, graph: torch.cuda.CUDAGraph, logits: torch.Tensor) -> None:
        self._graph = graph
        self.logits = logits

    def replay(self) -> None:
        self._graph.replay()


class CudaGraphs:
    """Graphs that share one pool of memory, because only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def capture(self, run: Callable[[], torch.Tensor]) -> Capture:
        """Other threads may copy to the device meanwhile; only this thread is recorded."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(NUM_WARMUPS):
                run()
        current.wait_stream(self._stream)
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # so that everything reserved beyond this belongs to the graph
        before = torch.cuda.memory_reserved(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            logits = run()
        self._num_bytes += max(0, torch.cuda.memory_reserved(self._device) - before)
        return _CudaCapture(graph, logits)

    def drop(self) -> None:
        torch.cuda.synchronize(self._device)
        self._pool = torch.cuda.graph_pool_handle()
        self._num_bytes = 0


def graph_backend(device: torch.device) -> GraphBackend | None:
    """Records decode steps on a device; None if the device cannot."""
    return CudaGraphs(device) if device.type == "cuda" else None
