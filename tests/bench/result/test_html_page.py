"""Results as JSON and as a page."""

import json

from serve_app.bench.bars.bar_list import BARS
from serve_app.bench.bars.bars import row
from serve_app.bench.benchmark_pages import page
from serve_app.bench.result.environment import environment
from serve_app.bench.result.html_page import render, shown
from serve_app.bench.result.sections import Section, Table
from tests.bench.result.results import result


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
    cells = ["<m0>", shown(0.0123456), shown(True)]
    table = Table("", ["model", "step_s", "ok"], [cells])
    drawn = render(result("other", []), [Section("What was found", tables=[table])])
    assert "http" not in drawn.replace("http://www.w3.org", "")
    assert "&lt;m0&gt;" in drawn
    assert "0.0123" in drawn
    assert "A Processor, 2 cores" in drawn
    assert "python 3.11.0" in drawn


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
    drawn = page(found)
    assert drawn.count("<svg") == 2
    assert "http_over_engine: there is no port." in drawn
    assert "Growth" in drawn
