"""Connects the real parts of a replica: registry, torch engine, text process. Decides nothing."""

import os
from collections.abc import Callable

import torch

from consolidation.release import Registry
from serve_app.config import ServeConfig
from serve_app.engine.config import EngineConfig
from serve_app.engine.device.device import resolve_device
from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop
from serve_app.serving.patient_reader import PatientReader
from serve_app.serving.replica.dependencies import Loop, OpenedRelease, Parts, ReplicaSource
from serve_app.serving.replica.neighbours import Neighbours
from serve_app.text.process.text_client import TextClient


def real_parts(config: ServeConfig, text: TextClient, neighbours: Neighbours) -> Parts:
    """Opens nothing yet, except the registry itself. Raises ReleaseError for a bad family."""
    registry = Registry(config.registry, config.family)
    return Parts(
        channel=lambda name: _channel(registry, name),
        canary=registry.canary,
        aliases=registry.aliases,
        open_release=lambda release: _open_release(registry, release),
        open_engine=lambda source: _open_engine(config.engine, source),
        text=text,
        neighbours=neighbours,
    )


def _channel(registry: Registry, name: str) -> str | None:
    channel = registry.channel(name)
    return None if channel is None else channel.release


def _open_release(registry: Registry, release: str) -> OpenedRelease:
    """Reads a release's manifest; the engine and the text process read and verify the rest."""
    reader = PatientReader(registry, release)
    at = registry.published_at(release)
    return OpenedRelease(reader, reader.write_tokenizer, int(at.timestamp()) if at else 0)


def _open_engine(config: EngineConfig, source: ReplicaSource) -> Loop:
    if resolve_device(config.device) == "cpu":
        torch.set_num_threads(
            _num_threads()
        )  # Ray gives a replica without a reserved CPU one thread

    def make(wake: Callable[[], None]) -> Engine:
        return Engine.open(source, config, on_loaded=wake)

    loop = EngineLoop(make)
    try:
        loop.stage(source, may_lack=True).result()
    except BaseException:
        loop.close()
        raise
    return loop


def _num_threads() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
