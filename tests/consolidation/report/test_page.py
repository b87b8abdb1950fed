import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from consolidation.release import Manifest
from consolidation.report.page import render_report
from tests.consolidation.report.manifests import manifest, quality, score

EXPERTS = {
    "bard": [[("s/dense", ()), ("s/dense", ("packed-2-32",))]] * 3,
    "news": [[("s/dense", ("rank-8",)), ("n/packed-4-32", ())]] * 3,
}
OTHERS = [
    score("average", 1.0, bard=0.5, news=0.25),
    score("private-4-bit", 1.125, bard=0.02, news=0.01),
    score("private-8-bit", 2.125, bard=0.0, news=0.0001),
]


@pytest.fixture(scope="module")
def release() -> Manifest:
    return manifest(EXPERTS, {"bard": quality(0.0123, 0.0111), "news": quality(0.0, None)})


def plots(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def test_the_page_needs_no_network_and_runs_nothing(release: Manifest) -> None:
    page = render_report([(release, None)], OTHERS)
    addresses = set(re.findall(r"https?://[^\"\s<]*", page))
    assert addresses == {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|link|iframe|img)|@import", page)
    assert not re.search(r"(src|href)=\"[^#]", page)


def test_the_same_release_gives_the_same_page(release: Manifest) -> None:
    assert render_report([(release, None)], OTHERS) == render_report([(release, None)], OTHERS)


def test_every_plot_is_well_formed_and_says_what_it_shows(release: Manifest) -> None:
    drawn = plots(render_report([(release, None)], OTHERS))
    titles = [ElementTree.fromstring(plot).findtext("{*}title") for plot in drawn]
    assert titles == [
        "Mean divergence against bytes, every method",
        "Divergence against bytes, for each model",
        "Predicted against measured divergence",
        "How each expert is stored",
    ]


def test_a_release_that_was_not_evaluated_shows_what_its_validation_measured(
    release: Manifest,
) -> None:
    page = render_report([(release, None)])
    assert "as measured when the release was made" in page
    assert re.search(r"<td>bard</td><td>0.0111</td><td>0.0123</td><td>50.000 → 51.500", page)
    assert re.search(r"<td>news</td><td>–</td><td>0</td>", page)
    assert "Quality against bytes" not in page


def test_a_release_that_was_evaluated_shows_that(release: Manifest) -> None:
    page = render_report([(release, score("release x", 0.5, bard=0.02, news=0.001))])
    assert "as measured when the release was made" not in page
    assert re.search(
        r"<td>bard</td><td>0.01</td><td>0.02</td><td>96.0 %</td><td>20.000 → 20.250</td>", page
    )
    assert re.search(r"<td>81.2 % → 75.0 %</td><td>87.5 %</td><td>62.5 %</td>", page)
    assert "<td>0.08</td><td>0.16</td><td>6.2 %</td>" in page


def test_columns_of_what_was_not_measured_are_left_out(release: Manifest) -> None:
    validated = render_report([(release, None)])
    evaluated = render_report([(release, score("release x", 0.5, bard=0.02, news=0.001))])
    assert "<th>routers agree</th>" in evaluated
    assert "<th>routers agree</th>" not in validated


def test_long_names_leave_room_for_plots() -> None:
    name = "a-" * 31 + "1"
    other = f"{name[:-1]}2"
    rows = [[("s/dense", ())] * 2]
    both = {name: quality(0.01, 0.02), other: quality(0.02, 0.03)}
    made = manifest({name: rows, other: rows}, both)
    of_others = score("average", 1.0, **{name: 0.1, other: 0.2})
    for plot in plots(render_report([(made, None)], [of_others])):
        words = [element.text or "" for element in ElementTree.fromstring(plot).iter()]
        assert max(len(found) for found in words) < 50
    assert {"1", "2"} <= {found[-1:] for found in words if "…" in found}, "they can be told apart"


def test_what_a_decode_step_reads_is_told_where_shapes_are_known(release: Manifest) -> None:
    page = render_report([(release, None)])
    assert release.step_bytes is not None
    read = f"{release.step_bytes / 2**20:,.2f} MiB of experts"
    assert f"A decode step of 8 sequences, 4 for each model, reads {read}" in page
    layers = [layer.model_copy(update={"parameters": {}}) for layer in release.layers]
    old = release.model_copy(update={"schema_version": 1, "layers": tuple(layers)})
    assert "A decode step" not in render_report([(old, None)])


def test_methods_are_listed_by_bytes_and_those_of_one_kind_are_one_line(release: Manifest) -> None:
    page = render_report([(release, score("release x", 0.5, bard=0.02, news=0.001))], OTHERS)
    table = page[page.index("Every method") : page.index("Predicted against")]
    names = re.findall(r"<tr[^>]*><td>([^<]*)</td>", table)
    assert names == [f"release {release.id}", "average", "private-4-bit", "private-8-bit"]
    legend = plots(page)[0]
    for name in ("average", "private-k-bit", "releases"):
        assert f">{name}</text>" in legend
    assert ">private-4-bit</text>" not in legend


def test_the_correlation_of_ranks_is_told_from_three_points_on(release: Manifest) -> None:
    one = (release, score("release x", 0.5, bard=0.02, news=0.001))
    two = (release, score("release y", 0.6, bard=0.01, news=0.002))
    assert "Rank correlation" not in render_report([one])
    assert "Rank correlation over 4 points: 1.00." in render_report([one, two])


def test_names_are_text_and_never_markup(release: Manifest) -> None:
    page = render_report([(release, None)], [score("<b>&$x", 1.0, bard=0.1, news=0.2)])
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;$x" in page


def test_values_that_are_no_numbers_are_listed_and_not_drawn(release: Manifest) -> None:
    broken = score("broken", 1.0, bard=math.nan, news=math.inf)
    page = render_report([(release, score("release x", 1.0, bard=math.inf, news=0.1))], [broken])
    assert "<td>broken</td><td>0.05</td><td>1.000</td><td>nan</td><td>nan</td><td>inf</td>" in page
    assert re.search(r"<td>bard</td><td>inf</td><td>inf</td>", page)
    assert not any(re.search(r"[ML ](nan|inf)\b", plot) for plot in plots(page))


def test_a_method_that_was_measured_on_some_models_is_drawn_for_those(release: Manifest) -> None:
    page = render_report([(release, None)], [score("partial", 1.0, news=0.2)])
    assert "<td>partial</td><td>0.05</td><td>1.000</td><td>0.2</td><td>–</td><td>0.2</td>" in page


def test_maps_of_many_experts_stay_small() -> None:
    rows = [[("s/dense", ("packed-2-32",))] * 128] * 24
    large = render_report([(manifest({"one": rows, "two": rows}), None)])
    assert len(large) < 300_000
    assert "data:image/png;base64," in large


def test_layers_may_differ_in_their_number_of_experts() -> None:
    made = manifest({"one": [[("s/dense", ())] * 2, [("s/dense", ())] * 5]})
    (drawn,) = plots(render_report([(made, None)]))
    assert drawn.count(">16</text>") == 7


def test_the_command_line_starts_without_loading_what_draws() -> None:
    code = "import sys, serve_app.cli.main; print({'matplotlib', 'jinja2'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_large_release_shows_layers_first_and_every_expert_on_demand() -> None:
    kinds = [("s/split-4-128", ()), ("s/split-4-128", ("rank-8",)), ("n/packed-2-128", ())]
    rows = [[kinds[(layer + index) % 3] for index in range(128)] for layer in range(48)]
    page = render_report([(manifest({"one": rows, "two": rows}), None)])
    assert len(page) < 500_000, "four such models must stay far below 5 MB"
    titles = [ElementTree.fromstring(plot).findtext("{*}title") for plot in plots(page)]
    assert titles[-2:] == ["How the experts of each layer are stored", "How each expert is stored"]
    shown = re.findall(
        r"<details><summary>every expert of (\w+)</summary><pre>(.*?)</pre>", page, re.S
    )
    assert [name for name, _ in shown] == ["one", "two"]
    lines = shown[0][1].split("\n")
    assert lines[0].split() == ["layer", *map(str, range(128))]
    assert lines[1].split()[:4] == ["0", "4", "4+r8", "2"]
    assert lines[48].split()[:4] == ["47", "2", "4", "4+r8"]


def test_a_small_release_needs_no_details(release: Manifest) -> None:
    page = render_report([(release, None)])
    assert "<details>" not in page
    assert "How the experts of each layer are stored" not in page
