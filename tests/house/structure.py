"""What the layout of code must keep: functions that name what breaks it, in any tree.

What may import what is the import law's, in pyproject.toml.
"""

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

MOST_FILES = 16
"""Directly in a folder."""
MOST_LINES = 350
MOST_FUNCTION_LINES = 60
SHARED_BASENAMES = frozenset({"__init__", "config", "errors", "names"})
"""Names that a module may have in several folders."""
BUILT = frozenset({".pyc", ".pyd", ".so"})


def crowded_folders(packages: Iterable[Path]) -> list[str]:
    """Folders with more files than a reader takes in at a glance."""
    counts: dict[Path, int] = defaultdict(int)
    for file in _files(packages):
        counts[file.parent] += 1
    return [f"{folder}: {count} files" for folder, count in counts.items() if count > MOST_FILES]


def long_files(packages: Iterable[Path]) -> list[str]:
    """Files of code or text with too many lines; what lies in `data` is neither."""
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for file in _files(packages)
        if file.parent.name != "data"
    }
    return [f"{file}: {length} lines" for file, length in lengths.items() if length > MOST_LINES]


def long_functions(packages: Iterable[Path], allowed: Collection[tuple[str, str]]) -> list[str]:
    """Functions with too many lines. allowed: module and name of those that may be longer."""
    found = []
    for file in _modules(packages):
        for node in ast.walk(_parsed(file)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MOST_FUNCTION_LINES and (_dotted(file, packages), node.name) not in allowed:
                found.append(f"{file}: {node.name} has {length} lines")
    return found


def shared_basenames(packages: Iterable[Path]) -> list[str]:
    """Modules that cannot be told apart by their name."""
    folders: dict[str, list[str]] = defaultdict(list)
    for file in _modules(packages):
        if file.stem not in SHARED_BASENAMES:
            folders[file.name].append(str(file.parent))
    return [f"{name}: {', '.join(places)}" for name, places in folders.items() if len(places) > 1]


def _files(packages: Iterable[Path]) -> Iterator[Path]:
    for package in packages:
        for file in sorted(package.rglob("*")):
            if file.is_file() and file.suffix not in BUILT:
                yield file


def _modules(packages: Iterable[Path]) -> Iterator[Path]:
    return (file for file in _files(packages) if file.suffix == ".py")


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _dotted(path: Path, packages: Iterable[Path]) -> str:
    """The name by which a module, or a folder, is imported."""
    top = next(package for package in packages if path.is_relative_to(package)).parent
    return ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")
