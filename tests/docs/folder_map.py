"""The map of folders in docs/architecture.md, and what the code says of the same. Judges nothing.

A row of the map is a folder, the first line of its `__init__.py`, and the folders that may import
it. Of those a name stands for the folder and all below it, `name/*` for the files directly in it;
a leading `serve_app/` or `consolidation/` may be left out.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

_ROW = re.compile(r"^\| `([\w/]+)` \| (.+) \| (.*) \|$", re.MULTILINE)
_NAME = re.compile(r"`([\w/*]+)`")


@dataclass(frozen=True, slots=True)
class Row:
    """What the map says of a folder. `importers`: names of folders, as they are written."""

    line: str
    importers: tuple[str, ...]


def read_map(page: str) -> dict[str, Row]:
    """The rows of a page's tables, by folder."""
    return {
        folder: Row(line, tuple(_NAME.findall(importers)))
        for folder, line, importers in _ROW.findall(page)
    }


def folder_lines(packages: Iterable[Path]) -> dict[str, str]:
    """The first line of each package's docstring, by folder."""
    found = {}
    for package in packages:
        for file in sorted(package.rglob("__init__.py")):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[str(file.parent.relative_to(package.parent))] = text.partition("\n")[0]
    return found


def folder_imports(names: Iterable[str]) -> dict[str, set[str]]:
    """The folders that import something directly from each folder of these packages."""
    graph = grimp.build_graph(*names, cache_dir=None)
    imports: dict[str, set[str]] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            into, out_of = _folder(module, graph), _folder(imported, graph)
            if into != out_of:
                imports.setdefault(out_of, set()).add(into)
    return imports


def wrong_importers(row: Row, importers: Iterable[str], folders: Iterable[str]) -> list[str]:
    """What does not agree between a row and the folders that import it."""
    known = {name: _resolve(name, folders) for name in row.importers}
    found = [f"{name} is no folder" for name, folder in known.items() if folder is None]
    used = set()
    for importer in sorted(importers):
        fitting = {name for name, folder in known.items() if folder and _covers(folder, importer)}
        if not fitting:
            found.append(f"{importer} imports it")
        used |= fitting
    return found + [
        f"{name} does not import it" for name in known if known[name] and name not in used
    ]


def _resolve(name: str, folders: Iterable[str]) -> str | None:
    """A folder, with `/*` where the name has that; None where there is no such folder."""
    base = name.removesuffix("/*")
    for folder in (base, f"serve_app/{base}", f"consolidation/{base}"):
        if folder in folders:
            return folder + name.removeprefix(base)
    return None


def _covers(folder: str, importer: str) -> bool:
    if folder.endswith("/*"):
        return importer == folder.removesuffix("/*")
    return importer == folder or importer.startswith(f"{folder}/")


def _folder(module: str, graph: grimp.ImportGraph) -> str:
    parents = module if graph.find_children(module) else module.rpartition(".")[0]
    return parents.replace(".", "/")


def missing_rows(rows: Mapping[str, Row], lines: Mapping[str, str]) -> list[str]:
    """Folders without a row, rows without a folder, and rows with other words than the folder."""
    return [
        *(f"no row for {name}: {line}" for name, line in lines.items() if name not in rows),
        *(f"no folder {name}" for name in rows if name not in lines),
        *(
            f"{name}: {row.line!r} is {lines[name]!r} in its __init__.py"
            for name, row in rows.items()
            if name in lines and row.line != lines[name]
        ),
    ]
