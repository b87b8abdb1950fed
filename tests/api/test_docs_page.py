"""The page about the routes: what is on it, who may read it, and that it fetches nothing."""

import asyncio
import re
from html.parser import HTMLParser

import httpx
import pytest

from serve_app.api.openapi.document import document
from serve_app.api.openapi.operations import operations
from serve_app.api.openapi.routes_page import page
from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from tests.api.fakes import FakeClient
from tests.api.held_keys import HeldKeys

KEYS: dict[str, dict[str, object]] = {"k": {"scopes": ["infer"]}}
DOCUMENT = document(list(operations()), "1.0", has_keys=True)


class Read(HTMLParser):
    """Elements, what they refer to, ids and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.references += [v or "" for k, v in attrs if k in ("href", "src", "action", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def get(path: str, *, has_docs: bool, method: str = "GET") -> httpx.Response:
    async def run() -> httpx.Response:
        api = Api(FakeClient(), RequestLimits(), HeldKeys(KEYS), has_docs=has_docs)
        transport = httpx.ASGITransport(app=build_api(api))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path)

    return asyncio.run(run())


def test_every_route_and_every_schema_is_on_the_page_and_can_be_reached() -> None:
    read = Read(page(DOCUMENT))
    assert read.open == []
    for method, path in operations():
        at = read.texts.index(path)
        assert method in read.texts[at - 3 : at]
    schemas = DOCUMENT["components"]["schemas"]
    assert read.ids == [f"schema-{name}" for name in sorted(schemas, key=str.lower)]
    links = {link for link in read.references if link.startswith("#")}
    assert links <= {f"#{name}" for name in read.ids}
    assert "#schema-ChatFields" in links


def test_the_page_runs_nothing_and_fetches_nothing() -> None:
    text = page(DOCUMENT)
    read = Read(text)
    assert not read.elements & {"script", "link", "img", "iframe", "form", "object"}
    assert {link for link in read.references if not link.startswith("#")} == {"openapi.json"}
    assert not re.search(r"url\(|@import|\son\w+=|javascript:", text)
    policy = get("/docs", has_docs=True).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")


def test_the_page_tells_types_limits_values_and_what_is_required() -> None:
    text = re.sub(r"\s+", " ", "".join(Read(page(DOCUMENT)).texts))
    assert "temperature number (at least 0, at most 2) or null" in text
    assert '"none" or "minimal" or "low"' in text
    assert "model required string (characters, at least 1)" in text
    assert "tools list of Tool or null" in text
    assert "logit_bias map of number (at least -100, at most 100) or null" in text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_anybody_may_read_the_page_where_there_is_one(method: str) -> None:
    answer = get("/docs", has_docs=True, method=method)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert get("/docs", has_docs=False, method=method).status_code == 404
    assert get("/openapi.json", has_docs=True).status_code == 401
