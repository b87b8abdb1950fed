"""Links and paths in README, CHANGELOG and docs lead to files and headings that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+)/?`")
_BUILT = ".venv/"
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def links(page: Path) -> list[str]:
    """Targets of the page's links to files and headings of this repository."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The names by which GitHub knows a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text)]
    return {heading.strip().replace(" ", "-") for heading in words}


def test_there_are_links_to_check() -> None:
    assert ROOT / "README.md" in PAGES
    assert "docs/cli.md" in links(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert not broken, f"{page.relative_to(ROOT)}: {broken}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_leads_somewhere(page: Path) -> None:
    """From the top, `serve_app` or `consolidation`. The log names files as they were then."""
    if page.name == "log.md":
        return
    missing = [
        path
        for path in _PATH.findall(page.read_text(encoding="utf-8"))
        if not path.startswith(_BUILT)
        and not any((ROOT / top / path).exists() for top in ("", "serve_app", "consolidation"))
    ]
    assert not missing, f"{page.relative_to(ROOT)}: {missing}"


def test_every_page_is_reached_from_the_readme() -> None:
    """Decisions are reached as a folder."""
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    missing = [page for page in PAGES if page not in reached and page.parent.name != "adr"]
    assert not missing
