"""The image, as far as it can be judged without building one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.support import ROOT, a_set, of_kind

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A `docker` and a `python` that write down what they are told; where they write it."""
    told = tmp_path / "told"
    for name in ("docker", "python"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
        program.chmod(0o755)
    return told


def make(recorded: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{recorded.parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["make", "--no-print-directory", "image", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), 'BASE_DIGEST is ""'),
        (("BASE_DIGEST=latest",), 'BASE_DIGEST is "latest"'),
        ((f"BASE_DIGEST={DIGEST}", "TARGET=tpu"), 'TARGET is "tpu": give cpu or gpu'),
    ],
)
def test_no_image_is_built_on_a_base_that_nobody_named(
    words: tuple[str, ...], named: str, recorded: Path
) -> None:
    done = make(recorded, *words)
    assert done.returncode == 2
    assert named in done.stderr
    assert not recorded.exists()


def test_an_image_is_built_on_the_base_that_was_named(recorded: Path) -> None:
    done = make(recorded, f"BASE_DIGEST={DIGEST}", "TARGET=gpu")
    assert done.returncode == 0, done.stderr
    told = recorded.read_text()
    assert f"--target gpu --build-arg BASE_DIGEST={DIGEST}" in told
    [container] = of_kind(a_set(), "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert f"--tag {container['image']} ." in told


def test_torch_is_installed_first_in_the_version_of_the_constraints(recorded: Path) -> None:
    script = ROOT / "deploy" / "install.sh"
    python = recorded.parent / "python"
    subprocess.run([script, python, "--editable", ".[dev]"], cwd=ROOT, check=True)
    [torch, rest] = recorded.read_text().splitlines()
    constrained = "-m pip install --quiet --constraint constraints.txt"
    [version] = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("torch==")
    ]
    assert torch == f"{constrained} {version}"
    assert rest == f"{constrained} --editable .[dev]"


def test_every_target_runs_as_the_user_of_the_pods_and_installs_by_the_script() -> None:
    _, *targets = DOCKERFILE.read_text().split("\nFROM base AS ")
    assert [target.split("\n")[0] for target in targets] == ["cpu", "gpu"]
    cluster = of_kind(a_set(), "RayService")["spec"]["rayClusterConfig"]
    user = cluster["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"]
    for target in targets:
        assert f"USER {user}\n" in target
        assert "RUN deploy/install.sh /opt/expertpool/bin/python" in target


def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
