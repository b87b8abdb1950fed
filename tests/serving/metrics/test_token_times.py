"""Times between tokens are what prometheus_client would have made of them."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.serving.metrics.metric_row import PREFIX
from serve_app.serving.metrics.metrics_pages import page
from serve_app.serving.metrics.metrics_table import BETWEEN_TOKENS
from serve_app.serving.metrics.token_times import TokenTimes

SECONDS = (0.0, 0.001, 0.0010001, 0.02, 0.3, 2.5, 2.6, 60.0)
LABELS = ("a", "acme", "stable", "standard")


def samples(text: str) -> dict[tuple[str, str], float]:
    """By name and labels, without the time at which a series was made."""
    return {
        (each.name, str(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if not each.name.endswith("_created")
    }


def test_they_are_what_prometheus_client_makes_of_them() -> None:
    registry = CollectorRegistry()
    row = BETWEEN_TOKENS
    theirs = Histogram(
        PREFIX + row.name, row.help, row.labels, registry=registry, buckets=row.buckets
    )
    ours = TokenTimes(row)
    for seconds in SECONDS:
        theirs.labels(*LABELS).observe(seconds)
        ours.labels(*LABELS).observe(seconds)
    theirs.labels("b", *LABELS[1:])
    ours.labels("b", *LABELS[1:])
    found = samples(page([ours.family()]))
    assert found == samples(generate_latest(registry).decode())
    assert len(found) == 2 * (len(row.buckets) + 1 + 2)


def test_the_series_of_a_model_goes_with_it() -> None:
    ours = TokenTimes(BETWEEN_TOKENS)
    for model in "ab":
        ours.labels(model, *LABELS[1:]).observe(0.1)
    ours.drop("a")
    assert {each.labels["model_name"] for each in ours.family().samples} == {"b"}
