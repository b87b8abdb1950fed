"""Builds the image, and runs commands in it, without a daemon and without a registry.

debootstrap makes the base from Debian's packages, in place of the official image of Python that
`deploy/Dockerfile` names. Buildah follows the Dockerfile as docker does, and runs commands in a
chroot: a pod's own network and limits are not there.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.endpoint import ROOT
from tests.image_check.pip_settings import as_file, named_paths, pip_settings

PROGRAMS = ("buildah", "debootstrap")
"""Debian's packages."""
USER = "1000"
_SUITE = "bookworm"
_PACKAGES = "ca-certificates,python3,python3-dev,python3-venv"
"""What is more than Debian's least: the base has Python with its headers, and no compiler."""
_BASE, _IMAGE = "localhost/expertpool-base", "localhost/expertpool-check"


def missing() -> str:
    """Why no image can be built here; empty if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs Debian's {' and '.join(absent)}"
    return "" if os.geteuid() == 0 else "needs root, to build in a chroot"


class Image:
    """The image of a target, and a container of it.   folder: empty; all is kept in it."""

    def __init__(self, folder: Path, out: Path) -> None:
        """out: an existing folder that gets logs."""
        self.folder, self.out = folder, out
        self._stores = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]
        self._container = ""

    def build(self, target: str, revision: str, version: str) -> None:
        """Raises: CalledProcessError; the log says why."""
        digest = self._base()
        settings = pip_settings()
        told = self.folder / "pip.conf"
        told.write_text(as_file(settings), encoding="utf-8")
        volumes = {told: "/etc/pip.conf"} | {path: str(path) for path in named_paths(settings)}
        arguments = {"BASE_DIGEST": digest, "REVISION": revision, "VERSION": version}
        self._logged(
            "build",
            *("bud", "--isolation", "chroot", "--format", "docker", "--pull-never"),
            *("--from", f"{_BASE}@{digest}", "--target", target, "--tag", _IMAGE),
            *(word for name in arguments for word in ("--build-arg", f"{name}={arguments[name]}")),
            *(word for at in volumes for word in ("--volume", f"{at}:{volumes[at]}:ro")),
            *("--file", str(ROOT / "deploy" / "Dockerfile"), str(ROOT)),
        )
        self._container = self._said("from", "--pull-never", _IMAGE)

    def config(self) -> dict[str, Any]:
        """What the image says of itself: `Labels`, `User`, `Healthcheck`, …"""
        told = json.loads(self._said("inspect", "--type", "image", _IMAGE))
        found: dict[str, Any] = told["Docker"]["config"]
        return found

    def num_bytes(self) -> int:
        """Of its layers, unpacked."""
        mounted = self._said("mount", self._container)
        told = subprocess.run(
            ["du", "--summarize", "--bytes", mounted], capture_output=True, text=True, check=True
        )
        return int(told.stdout.split()[0])

    def command(
        self,
        *words: str,
        volumes: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """What runs `words` in the container, as its user, with folders of this machine."""
        settings = environment or {}
        return [
            *("buildah", *self._stores, "run", "--isolation", "chroot", "--user", USER),
            *(word for path in volumes for word in ("--volume", f"{path}:{path}")),
            *(word for name in settings for word in ("--env", f"{name}={settings[name]}")),
            *(self._container, "--", *words),
        ]

    def run(self, *words: str, within_s: float = 120.0, **where: Any) -> str:
        """What it prints.   where: as for `command`.   Raises: ChildProcessError, with its end."""
        done = subprocess.run(
            self.command(*words, **where),
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise ChildProcessError(f"{words[0]} ended with {done.returncode}: {said[-2000:]}")
        return done.stdout.strip()

    def close(self) -> None:
        """Unmounts everything and removes it."""
        for words in (("rm", "--all"), ("rmi", "--all", "--force")):
            subprocess.run(["buildah", *self._stores, *words], capture_output=True, check=False)

    def _base(self) -> str:
        """Makes the base. -> its digest"""
        root, archive = self.folder / "base", self.folder / "base.tar"
        options = ["--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root)]
        self._process("base", ["debootstrap", *options])
        # The official image has its own Python there, under this name.
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        self._process("base", ["tar", "--create", "--file", str(archive), "-C", str(root), "."])
        container = self._said("from", "scratch")
        self._logged("base", "add", container, str(archive), "/")
        self._logged("base", "commit", container, _BASE)
        self._logged("base", "rm", container)
        shutil.rmtree(root)
        archive.unlink()
        [image] = json.loads(self._said("images", "--json", _BASE))
        digest: str = image["digest"]
        return digest

    def _logged(self, name: str, *words: str) -> None:
        self._process(name, ["buildah", *self._stores, *words])

    def _process(self, name: str, command: Sequence[str]) -> None:
        with (self.out / f"{name}.log").open("ab") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)

    def _said(self, *words: str) -> str:
        done = subprocess.run(
            ["buildah", *self._stores, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
