"""docs/http.md lists every route, and docs/cli.md every command."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from tests.api.fakes import FakeClient
from tests.cli.tree import TREE

DOCS = Path(__file__).parents[2] / "docs"
_METHOD = re.compile(r"(?:(GET|POST) )?(/\S*)")


def routes_of(router: Any) -> set[tuple[str, str]]:
    """(method, path) of a router."""
    return {
        (method, re.sub(r"{[^}]*}", "{}", route.path))
        for route in router.routes
        for method in route.methods
    }


def routes_of_page(page: str) -> set[tuple[str, str]]:
    """Of the table's first cells: `GET /a`, `/b` are two routes of one method."""
    found = set()
    for line in page.splitlines():
        method = ""
        for code in re.findall(r"`([^`]*)`", line.split("|")[1]) if line.startswith("| `") else ():
            if route := _METHOD.fullmatch(code):
                method = route[1] or method
                found.add((method, re.sub(r"{[^}]*}", "{}", route[2])))
    return found


def test_routes_are_read_off_a_table() -> None:
    page = "| `GET /a`, `/b/{id}` | lists `/c` |\n| `POST /d` | |\n| 400 | `/e` |"
    assert routes_of_page(page) == {("GET", "/a"), ("GET", "/b/{}"), ("POST", "/d")}


def test_the_page_on_http_lists_the_routes_there_are() -> None:
    api = Api(FakeClient(), RequestLimits(), has_docs=True)
    app = cast(Any, build_api(api))._app._app._app
    assert routes_of_page((DOCS / "http.md").read_text(encoding="utf-8")) == routes_of(app)


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_the_page_on_the_command_line_lists_a_command(path: tuple[str, ...]) -> None:
    assert f"`{' '.join(path)}`" in (DOCS / "cli.md").read_text(encoding="utf-8")
