"""Which page belongs to which benchmark. Import it where a page is drawn: it needs matplotlib."""

from collections.abc import Callable, Mapping, Sequence

from serve_app.bench.bars import bars_page
from serve_app.bench.compare import compare_page
from serve_app.bench.http import http_page
from serve_app.bench.load import load_page
from serve_app.bench.result.html_page import render
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Section
from serve_app.bench.step import step_page
from serve_app.bench.tenants import tenants_page

SECTIONS: Mapping[str, Callable[[Result], Sequence[Section]]] = {
    "step": step_page.sections,
    "load": load_page.sections,
    "http": http_page.sections,
    "compare": compare_page.sections,
    "bars": bars_page.sections,
    "tenants": tenants_page.sections,
}
"""What is shown of each kind of result."""


def page(result: Result) -> str:
    """The HTML page about a benchmark's result. Raises: KeyError for a kind that has none."""
    return render(result, SECTIONS[result.kind](result))
