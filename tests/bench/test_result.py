"""Results as JSON and as a page."""

import json

from serve_app.bench.bars import BARS, row
from serve_app.bench.environment import environment
from serve_app.bench.report.page import render
from tests.bench.results import result


def test_the_environment_says_what_a_figure_means_nothing_without() -> None:
    here = environment()
    assert here.device == "cpu"
    assert here.cores >= 1
    assert here.threads >= 1
    assert {"python", "torch", "transformers", "expertpool"} <= set(here.versions)


def test_a_result_is_one_json_object_with_environment_settings_and_rows() -> None:
    found = json.loads(json.dumps(result("step", [{"models": 1}], rates={"copy": 2.0}).to_json()))
    assert found["kind"] == "step"
    assert found["environment"]["cores"] == 2
    assert found["settings"]["models"] == [1, 2]
    assert found["rates"] == {"copy": 2.0}
    assert found["rows"] == [{"models": 1}]


def test_a_page_stands_by_itself_and_says_where_its_figures_come_from() -> None:
    page = render(result("other", [{"model": "<m0>", "step_s": 0.0123456, "ok": True}]))
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "&lt;m0&gt;" in page
    assert "0.0123" in page
    assert "A Processor, 2 cores" in page
    assert "python 3.11.0" in page


def test_the_page_of_bars_shows_what_holds_and_the_curves_of_growth() -> None:
    spots = [
        {"size": size, "step_s": 0.03, "products_s": 0.02, "outside_s": 0.01} for size in (16, 64)
    ]
    rows = [
        row(BARS["scaling"], 0.25),
        row(BARS["packed_over_single"], 1.9),
        row(BARS["http_over_engine"], None, "there is no port"),
    ]
    found = result("bars", rows, measures={"scaling": {"curves": {"places": spots}}})
    page = render(found)
    assert page.count("<svg") == 2
    assert "http_over_engine: there is no port." in page
    assert "Growth" in page
