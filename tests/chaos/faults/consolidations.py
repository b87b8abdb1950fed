"""What goes wrong while a release is made beside an endpoint: nothing is half visible."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consolidation.pipeline import Recipe, consolidate
from consolidation.release import StorageFailed
from consolidation.run.executor import LocalExecutor
from consolidation.sources.local_sources import local_models
from serve_app.bench.http.processor_time import running
from serve_app.cli.processes import descendants
from tests.chaos.disk import full
from tests.chaos.endpoint import EXPERTPOOL, ROOT, is_alive
from tests.chaos.ground import Ground
from tests.serving.family import FAMILY

CHANNEL = "next"
WORKER = "ray::_run"
COMMAND_S = 240.0
"""Consolidation has the lowest priority, and the load comes first."""


def disk_full(ground: Ground) -> Mapping[str, Any]:
    """The registry's disk: a consolidation fails by name, and succeeds when there is room again."""
    family = ground.family
    recipe = Recipe(
        FAMILY,
        family.tiny.url,
        local_models({"x": family.make("x0", 100)}),
        channel=CHANNEL,
        calibration=((None, family.text),),
    )
    known = family.registry.releases()
    with full(Path(family.tiny.url)) as free:
        ground.hurt()
        try:
            consolidate(recipe, executor=LocalExecutor())
        except StorageFailed as error:
            said = str(error)
        else:
            raise AssertionError("a full disk was not noticed")
        assert family.registry.releases() == known
        assert family.registry.channel(CHANNEL) is None
        time.sleep(3)
    found = consolidate(recipe, executor=LocalExecutor())
    ground.hurt()
    assert family.registry.channel(CHANNEL) is not None
    return {"was free": free, "said": said, "release": found.release}


def worker_killed(ground: Ground) -> Mapping[str, Any]:
    """One worker of a consolidation: its task is run again, and the release is made."""
    command = _begin(ground, "w0", 200)
    try:
        ground.until(lambda: bool(_workers(command)), "a worker runs", COMMAND_S)
        os.kill(_workers(command)[0], signal.SIGKILL)
        code = command.wait(timeout=COMMAND_S)
    finally:
        _end(command)
    ground.hurt()
    assert code == 0, f"exit code {code}"
    return {"exit code": code}


def command_killed(ground: Ground) -> Mapping[str, Any]:
    """All of a consolidation in its middle: nothing is visible, and the same command goes on."""
    registry = ground.family.registry
    known, pointed = registry.releases(), registry.channel(CHANNEL)
    command = _begin(ground, "k0", 300)
    try:
        ground.until(lambda: bool(_workers(command)), "a worker runs", COMMAND_S)
    finally:
        _end(command)
    assert registry.releases() == known
    assert registry.channel(CHANNEL) == pointed
    again = _begin(ground, "k0", 300)
    try:
        code = again.wait(timeout=COMMAND_S)
    finally:
        _end(again)
    ground.hurt()
    assert code == 0, f"exit code {code}"
    assert len(registry.releases()) == len(known) + 1
    left = [str(path) for path in ground.family.folder.rglob(".*.tmp")]
    assert not left, f"temporary files stay: {left}"
    return {"exit code": code}


def two_at_once(ground: Ground) -> Mapping[str, Any]:
    """The same recipe twice: the same content is the same release, so both succeed."""
    known = ground.family.registry.releases()
    commands = [_begin(ground, "t", 400) for _ in range(2)]
    try:
        codes = [command.wait(timeout=COMMAND_S) for command in commands]
    finally:
        for command in commands:
            _end(command)
    ground.hurt()
    assert codes == [0, 0], f"exit codes {codes}"
    assert len(ground.family.registry.releases()) == len(known) + 1
    return {"exit codes": codes}


def _begin(ground: Ground, name: str, seed: int) -> "subprocess.Popen[bytes]":
    """`consolidate` of two checkpoints that are new, in a process of its own."""
    models = [f"--model={name}{n}={ground.family.make(f'{name}{n}', seed + n)}" for n in range(2)]
    command = ["consolidate", f"--family={FAMILY}", f"--registry={ground.family.tiny.url}"]
    command += [f"--calibration={ground.family.text}"]
    with (ground.out / "consolidate.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", EXPERTPOOL, *command, f"--channel={CHANNEL}", *models],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _workers(command: "subprocess.Popen[bytes]") -> list[int]:
    """Processes of the command that run one of its tasks."""
    below = set(descendants(command.pid))
    return [one.pid for one in running() if one.pid in below and WORKER in one.command]


def _end(command: "subprocess.Popen[bytes]") -> None:
    below = descendants(command.pid)
    if command.poll() is None:
        command.kill()
        command.wait()
    for pid in below:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
