"""`expertpool consolidate` as users run it: a process of its own, with Ray below it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from consolidation.release import Registry
from consolidation.run.executor import LocalExecutor
from serve_app.cli.computing.lazy_ray import LazyRay
from serve_app.cli.main import run
from serve_app.cli.processes import Interruption, descendants
from tests.cli.test_processes import is_running
from tests.support.checkpoints import write_checkpoint

COMMAND = [sys.executable, "-m", "serve_app.cli.main", "consolidate"]
START_S = 120.0

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("one", "two")):
        write_checkpoint(directory / name, "mixtral", seed)
    return directory


def arguments(checkpoints: Path, registry: Path, *more: str) -> list[str]:
    models = [f"--model={name}={checkpoints / name}" for name in ("one", "two")]
    return [*COMMAND, "--family", "tiny", "--registry", str(registry), *models, *more]


def below(process: subprocess.Popen[str], wanted: str) -> list[int]:
    """Every process below the command, once one of that name is there."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        found = descendants(process.pid)
        if any(wanted in name(pid) for pid in found):
            return found
        time.sleep(0.05)
    pytest.fail(f"there was no {wanted}; the command says {process.poll()}")


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def test_json_is_the_only_thing_on_stdout(checkpoints: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        arguments(checkpoints, tmp_path, "--expert-budget", "1.5", "--json"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["models"] == ["one", "two"]
    assert told["expert_bytes_before"] == 2 * told["expert_bytes_one_model"]
    assert told["expert_bytes_after"] <= 1.5 * told["expert_bytes_one_model"]
    for quality in told["quality"].values():
        assert {"kl", "perplexity_original", "perplexity_release"} <= set(quality)
    channel = Registry(str(tmp_path), "tiny").channel("stable")
    assert channel is not None
    assert channel.release == told["release"]
    assert "plan: 1/1" in done.stderr
    assert "publish" in done.stderr
    assert "Traceback" not in done.stderr


class Talking(LocalExecutor):
    """Says on stdout what Ray does there when a worker has died."""

    nice: int

    def __init__(self, _: object, *, nice: int, **__: object) -> None:
        Talking.nice = nice

    def __enter__(self) -> Self:
        print("(raylet) A worker died")
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("json_only", [True, False])
def test_what_ray_says_goes_to_stderr(
    json_only: bool,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("serve_app.cli.consolidate.LazyRay", Talking)
    more = ["--json", "--normal-priority"] if json_only else []
    used = arguments(checkpoints, tmp_path, *more)[len(COMMAND) - 1 :]
    assert run(used) == 0
    captured = capsys.readouterr()
    assert "(raylet) A worker died" in captured.err
    assert captured.out.startswith("{" if json_only else "models  ")
    assert "raylet" not in captured.out
    assert Talking.nice == (0 if json_only else 19)


def test_the_command_and_its_tasks_have_the_lowest_priority_once_ray_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    class Executor(LocalExecutor):
        def __init__(self, *, nice: int, **_: object) -> None:
            done.append(f"tasks {nice}")

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("consolidation.run.ray_tasks.RayExecutor", Executor)
    monkeypatch.setattr(os, "nice", lambda by: done.append(f"command {by}"))
    with LazyRay(_NoInterruption(), nice=19) as ray:
        assert list(ray.map(str, [1])) == [(0, "1")]
    assert done == ["tasks 19", "command 19"]


class _NoInterruption(Interruption):
    def install(self) -> None: ...


def test_a_damaged_checkpoint_is_refused_before_ray_starts(
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("serve_app.cli.computing.lazy_ray.LazyRay.map", _starts_ray)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    used = arguments(checkpoints, tmp_path / "registry", f"--model=broken={broken}")
    assert run(used[len(COMMAND) - 1 :]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(broken) in captured.err
    assert "Traceback" not in captured.err


def _starts_ray(*_: object, **__: object) -> None:
    raise AssertionError("Ray starts with the first task")


@pytest.mark.parametrize(
    ("number", "when"),
    [
        pytest.param(signal.SIGTERM, "raylet", id="SIGTERM-while-Ray-starts"),
        pytest.param(signal.SIGTERM, "ray::", id="SIGTERM-at-work"),
        pytest.param(signal.SIGINT, "ray::", id="Ctrl-C-at-work"),
    ],
)
def test_a_signal_ends_ray_too_and_publishes_nothing(
    number: signal.Signals, when: str, checkpoints: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        arguments(checkpoints, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        started = below(process, when)
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to the whole group
        else:
            process.send_signal(number)
        started += descendants(process.pid)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert "Traceback" not in err
    assert not [name(pid) for pid in started if is_running(pid)]
    assert Registry(str(tmp_path), "tiny").releases() == []


STAGES = (
    "noise floor",
    "scan",
    "origins",
    "calibrate",
    "compare",
    "plan",
    "backbone",
    "effect",
    "build",
    "validate",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # Ray starts for every stage
def test_a_run_stopped_in_each_stage_ends_in_the_release_of_one_that_was_not(
    checkpoints: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    wishes = [f"--calibration={name}={text}" for name in ("one", "two")]
    wishes += ["--expert-budget=1.5", f"--base={checkpoints / 'one'}"]
    for stage in STAGES:
        _stop_in(stage, checkpoints, tmp_path / "a", wishes)
    for registry in (tmp_path / "a", tmp_path / "b"):
        done = subprocess.run(
            arguments(checkpoints, registry, *wishes), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert _release_of(tmp_path / "a") == _release_of(tmp_path / "b")


def _stop_in(stage: str, checkpoints: Path, registry: Path, wishes: list[str]) -> None:
    """Ctrl-C as soon as the stage is told."""
    with subprocess.Popen(
        arguments(checkpoints, registry, *wishes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"{stage}: "):
                below_it = descendants(process.pid)
                os.killpg(process.pid, signal.SIGINT)
                rest = process.stderr.read()
                assert process.wait(60) == 128 + signal.SIGINT, rest
                assert "Traceback" not in rest
                assert not [name(pid) for pid in below_it if is_running(pid)]
                assert Registry(str(registry), "tiny").releases() == []
                return
        pytest.fail(f"{stage} was never told")


def _release_of(registry: Path) -> str:
    channel = Registry(str(registry), "tiny").channel("stable")
    assert channel is not None
    return channel.release
