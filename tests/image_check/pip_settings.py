"""This machine's settings of pip, for a build that sees none of its files. Installs nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlparse

_ENVIRONMENT, _GLOBAL = ":env:.", "global."


def pip_settings() -> dict[str, str]:
    """What pip would use here: of its files, and of the environment, which wins."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    return merged(listed.stdout.splitlines())


def merged(lines: Iterable[str]) -> dict[str, str]:
    """lines: as `pip config list` prints them, `global.cert='/a'` or `:env:.cert='/b'`."""
    found: dict[str, dict[str, str]] = {_GLOBAL: {}, _ENVIRONMENT: {}}
    for line in lines:
        name, _, value = line.partition("=")
        for prefix, settings in found.items():
            if name.startswith(prefix):
                settings[name.removeprefix(prefix)] = ast.literal_eval(value)
    return found[_GLOBAL] | found[_ENVIRONMENT]


def as_file(settings: Mapping[str, str]) -> str:
    """A `pip.conf`."""
    lines = [f"{name} = {' '.join(value.split())}" for name, value in settings.items()]
    return "\n".join(["[global]", *lines, ""])


def named_paths(settings: Mapping[str, str]) -> list[Path]:
    """Files and folders of this machine that the settings name and that are there.

    An index that is a folder links to files beside it, so what it lies in is brought.
    """
    words = [word for value in settings.values() for word in value.split()]
    paths = {Path(word) for word in words if word.startswith("/")}
    paths |= {Path(urlparse(word).path).parent for word in words if word.startswith("file://")}
    return sorted(path for path in paths if path.exists())
