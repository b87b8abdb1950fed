"""What `make wheel` makes can be installed where there is no compiler."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

from serve_app.engine.device.native.library import NEEDS

DIST = Path(__file__).parents[2] / "dist"
MULTIPLY = """
import torch
from array import array
from serve_app.engine.device.native.library import native
from serve_app.engine.device.native.products import Products

code = native()
print(code.library._name)
x = torch.arange(-32, 32).view(4, 16).to(torch.bfloat16)
matrix = torch.arange(16 * 8).remainder(7).view(1, 8, 16).to(torch.bfloat16)
out = torch.full((4, 8), float("nan"), dtype=torch.bfloat16)
Products(code).multiply(x, matrix, array("q", [0, 0, 4]), None, out)
assert torch.equal(out, (x.float() @ matrix[0].float().t()).to(torch.bfloat16))
"""
ROUND = """
import torch
from consolidation.arithmetic import rounding
from consolidation.arithmetic.metric import weight_metric
from representation.formats import Packed

matrix = torch.arange(-32, 32).view(4, 16).float()
compiled = rounding.round_matrix(matrix, Packed(4, 16), weight_metric((4, 16)))
print(rounding.library()._name)
rounding.library = lambda: None
plain = rounding.round_matrix(matrix, Packed(4, 16), weight_metric((4, 16)))
assert torch.equal(compiled.codes, plain.codes)
"""
RENDER = """
from serve_app.k8s.kustomize import MANIFESTS, compose, names_of

for overlay in names_of("overlays"):
    assert len(compose(overlay, names_of("components"))) > 12
print(MANIFESTS)
"""
LOOK_TWICE = """
from serve_app.engine.device.native import library
print(library.__file__)
assert library.native() is None
assert library.native() is None
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(torch.cpu.get_capabilities().get, NEEDS)),
        reason="this CPU cannot run the compiled code",
    ),
]


class Environment:
    """Nothing but what is installed into it, no compiler, and the libraries of this environment."""

    def __init__(self, place: Path) -> None:
        venv.create(place, symlinks=True)
        self.place = place
        self._bin = place / "bin"
        [self._packages] = place.glob("lib/python*/site-packages")
        (self._packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))

    def install(self, file: Path) -> None:
        options = ["--no-deps", "--no-build-isolation", "--target", str(self._packages)]
        self._done(Path(sys.executable), "-m", "pip", "install", *options, str(file))

    def run(self, code: str) -> tuple[Path, str]:
        """The path that it prints, and what it logs."""
        done = self._done(self._bin / "python", "-I", "-c", code)
        return Path(done.stdout.strip()), done.stderr

    def _done(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.place,
            env=kept | {"PATH": str(self._bin)},
        )
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


def made(pattern: str) -> Path:
    found = list(DIST.glob(pattern))
    if not found:
        pytest.skip(f"there is no dist/{pattern}: `make wheel` makes it")
    [one] = found
    return one


def test_the_wheel_brings_compiled_code_for_every_python(environment: Environment) -> None:
    wheel = made("*.whl")
    assert "-py3-none-" in wheel.name
    assert "manylinux_2_17_x86_64" in wheel.name
    environment.install(wheel)
    for code in (MULTIPLY, ROUND, RENDER):
        loaded, _ = environment.run(code)
        assert loaded.is_relative_to(environment.place)


def test_without_a_compiler_the_sdist_leaves_it_to_torch_and_says_so_once(
    environment: Environment,
) -> None:
    environment.install(made("*.tar.gz"))
    imported, log = environment.run(LOOK_TWICE)
    assert imported.is_relative_to(environment.place)
    assert log.count("torch computes instead") == 1
