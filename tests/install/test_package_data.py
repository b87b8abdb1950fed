"""What a wheel brings beside code: every file that code reads where it is installed."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("consolidation", "representation", "serve_app")
COMPILED = {".c", ".h", ".so"}
"""Of extensions: a wheel has what is made of them."""


def files() -> Iterator[Path]:
    """All that is not code, relative to the root."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and path.suffix not in {".py", ".pyc", *COMPILED}:
                yield path.relative_to(ROOT)


def packaged() -> set[Path]:
    """What `package-data` names: patterns in the folder of a package, `*` in all of them."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = set[Path]()
    for package, patterns in told["tool"]["setuptools"]["package-data"].items():
        if package == "*":
            code = [path.parent for top in PACKAGES for path in (ROOT / top).rglob("__init__.py")]
        else:
            code = [ROOT / package.replace(".", "/")]
        found |= {
            path.relative_to(ROOT)
            for folder in code
            for pattern in patterns
            for path in folder.glob(pattern)
        }
    return found


def test_every_file_beside_code_is_in_the_wheel() -> None:
    known = list(files())
    assert [path for path in known if path not in packaged()] == []
    kinds = {path.suffix for path in known}
    assert {".yaml", ".json", ".txt"} <= kinds  # manifests, dashboards, calibration text
