"""The arms, and the processes that each consists of. Starts none."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serve_app.bench.arms import llama_cpp
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.llama_cpp import LlamaCppSpec
from serve_app.bench.arms.process import Opens
from serve_app.bench.arms.served import ProcessSpec

ARMS: Mapping[str, str] = {
    "pool": "one engine with the release as it is",
    "pool-unmerged": "the same engine, with separate experts for each model",
    "isolated": "one engine process per model, each with its share of cores and memory",
    "swap": "one engine with one whole model, the others in host memory, swapped on demand",
    "separate": "an engine per model in one process, stepped in turn",
    "single": "all requests to one model: the upper limit",
    "transformers": "continuous batching of transformers, all requests to one model",
    "llama.cpp": "a server of llama.cpp for each model, weights in bfloat16",
    "llama.cpp-q8_0": "the same, weights rounded to 8 bits",
    "llama.cpp-q4_0": "the same, weights rounded to 4 bits",
}
ONE_MODEL = ("single", "transformers")
"""Arms that send all requests to the first model."""
PRECISIONS = {"llama.cpp": "BF16", "llama.cpp-q8_0": "Q8_0", "llama.cpp-q4_0": "Q4_0"}
"""What the weights of an arm with llama.cpp are written in, as GGUF calls it."""
MPS_PIPES = "/tmp/nvidia-mps"
"""Where NVIDIA's multi-process service listens by default."""


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """An arm by name, and its processes."""

    name: str
    processes: tuple[Opens, ...]

    @property
    def only_model(self) -> str | None:
        """The model that gets all requests; None if each job goes to its own model."""
        return self.processes[0].models[0] if self.name in ONE_MODEL else None


def arm_spec(name: str, ground: Ground, cores: Sequence[int]) -> ArmSpec:
    """The arm with a name on a ground. cores: those of the machine that it may use."""
    if name == "isolated":
        return ArmSpec(name, isolated(ground, cores))
    if name in PRECISIONS:
        return ArmSpec(name, (LlamaCppSpec(name, ground, PRECISIONS[name], len(cores)),))
    first = replace(ground, models=ground.models[:1])
    process = {
        "pool": ProcessSpec("engine", ground, merged=True),
        "pool-unmerged": ProcessSpec("engine", ground),
        "swap": ProcessSpec("swap", ground),
        "separate": ProcessSpec("separate", ground),
        "single": ProcessSpec("engine", first),
        "transformers": ProcessSpec("transformers", first),
    }[name]
    return ArmSpec(name, (replace(process, threads=len(cores)),))


def why_not_here(name: str, ground: Ground) -> str | None:
    """Why an arm cannot run here on a ground, in words; None if it can."""
    if name in PRECISIONS:
        return llama_cpp.why_not_here(ground, PRECISIONS[name])
    if name == "transformers":
        config = ground.source.open().models[ground.models[0]].config
        if config.get("is_encoder_decoder"):
            return "its continuous batching is for decoders alone"
    return None


def isolated(ground: Ground, cores: Sequence[int]) -> tuple[ProcessSpec, ...]:
    """A process for each model, with its share of keys and values, cores and CUDA memory.

    With fewer cores than processes, each has a part of a core's time, and others cannot use it
    when it is idle: like a slice of a GPU, or a container with such a limit.
    """
    count = len(ground.models)
    each = ground.divided(count)
    return tuple(
        ProcessSpec(
            "engine",
            replace(each, models=(name,)),
            cores=(own := share(number, count, cores)),
            threads=len(own) if len(cores) >= count else 1,
            core_share=min(1.0, len(cores) / count),
            environment=_multiprocessor_share(ground, count),
        )
        for number, name in enumerate(ground.models)
    )


def share(number: int, count: int, cores: Sequence[int]) -> tuple[int, ...]:
    """The cores of one of `count` processes: an equal number; all if there are fewer cores."""
    each = len(cores) // count
    return tuple(cores[number * each : (number + 1) * each] if each else cores)


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def has_mps() -> bool:
    """Whether NVIDIA's multi-process service runs, which can divide multiprocessors."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", MPS_PIPES)) / "control").exists()


def _multiprocessor_share(ground: Ground, count: int) -> dict[str, str]:
    if ground.engine.device == "cpu" or not has_mps():
        return {}
    return {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(100 // count)}
