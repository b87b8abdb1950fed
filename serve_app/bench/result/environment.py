"""What a measurement ran on: the device, the versions, the threads, the time. Measures nothing."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

LIBRARIES = ("expertpool", "torch", "transformers", "safetensors", "ray", "triton", "flashinfer")
CPU_FEATURES = ("avx2", "avx512_bw", "avx512_bf16", "amx_tile")
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Environment:
    """Facts without which a figure means nothing.

    device: "cpu", or the CUDA device's name.   device_bytes: its memory; on the CPU the machine's.
    cores: those that this process may use.   cpu_features: of those that matter here, those it
    has.   versions: of the libraries that are there.   at: ISO time.
    """

    device: str
    device_bytes: int
    cuda: str | None
    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    threads: int
    versions: dict[str, str]
    at: str


def environment(device: str = "cpu") -> Environment:
    """The environment of a measurement on `device` that starts now."""
    chosen = torch.device(device)
    name, size = "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if chosen.type == "cuda":
        properties = torch.cuda.get_device_properties(chosen)
        name, size = properties.name, properties.total_memory
    capabilities = torch.cpu.get_capabilities()
    return Environment(
        device=name,
        device_bytes=size,
        cuda=torch.version.cuda if chosen.type == "cuda" else None,
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        cpu_features=tuple(feature for feature in CPU_FEATURES if capabilities.get(feature)),
        threads=torch.get_num_threads(),
        versions={"python": platform.python_version(), **_versions()},
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _cores() -> int:
    return os.cpu_count() or 1


def _cpu_name() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
