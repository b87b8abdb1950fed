"""A stand-in for CUDA graphs on the CPU: records operations on tensors, and runs them again.

As with a graph, only operations are recorded, on the very tensors that they were on: whatever the
host decided or read while recording stays as it was then. Reading a tensor is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from serve_app.engine.run.captures import Capture

READS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_consecutive"}
"""Operations by which the host waits for what is in a tensor."""


Operation = tuple[Any, tuple[Any, ...], dict[str, Any], list[torch.Tensor | None]]


class _Recording(TorchDispatchMode):
    """Notes each operation, the tensors that it was on, and those that it gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in READS:
            raise RuntimeError(f"{name} waits for the device")
        if name == "lift_fresh":
            raise RuntimeError("a tensor is made of the host's numbers")
        out = func(*args, **kwargs)
        made = _fresh(out, (args, kwargs))
        if any(x is not None for x in made) or func._schema.is_mutable:
            self.operations.append((func, args, kwargs, made))
        return out


def _fresh(out: Any, given: Any) -> list[torch.Tensor | None]:
    """The tensors that an operation gave; None for another look at what it was given."""
    known = {x.untyped_storage().data_ptr() for x in _tensors(given)}
    return [x if x.untyped_storage().data_ptr() not in known else None for x in _tensors(out)]


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


class Recorded:
    """What was recorded."""

    def __init__(self, owner: "Recorder", recording: _Recording, logits: torch.Tensor) -> None:
        self._owner = owner
        self._operations = recording.operations
        self.logits = logits

    @torch.inference_mode()
    def replay(self) -> None:
        self._owner.num_replays += 1
        for func, args, kwargs, made in self._operations:
            for old, new in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                if old is not None:
                    old.copy_(new)


class Recorder:
    """Records what runs on the CPU."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.num_replays = 0
        self.num_drops = 0
        self.num_bytes = 0

    @torch.inference_mode()
    def capture(self, run: Callable[[], torch.Tensor]) -> Capture:
        run()
        recording = _Recording()
        with recording:
            logits = run()
        found = Recorded(self, recording, logits)
        logits.fill_(float("nan"))  # as after a capture, in which nothing is computed
        self.recorded.append(found)
        self.num_bytes += logits.nbytes
        return found

    def drop(self) -> None:
        self.num_drops += 1
        self.num_bytes = 0
