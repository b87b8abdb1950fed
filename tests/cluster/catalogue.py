"""All rows, in the order in which they are run. Runs none."""

from tests.cluster.rows import (
    deaths,
    draining,
    figures,
    headless,
    readiness,
    residency,
    restarting,
    scaling,
)
from tests.cluster.site import Site
from tests.support.row import Row

ROWS: tuple[Row[Site], ...] = (
    Row(
        "nothing serves",
        readiness.nothing_serves,
        "not RUNNING, not ready; then RUNNING",
        most_s=300,
    ),
    Row("replicas 1, 2, 1", scaling.up_and_down, "0 refused or cut", most_s=240),
    Row(
        "replicas 1, 2, 1 from a bucket",
        scaling.up_and_down_from_a_bucket,
        "0 refused or cut",
        most_s=300,
    ),
    Row("multi-gpu as rendered", scaling.multi_gpu, "2 engines; 0 refused or cut", most_s=300),
    Row("two replicas counted", figures.metrics_of_two, "within 1 % of the truth", most_s=240),
    Row("engine of two killed", deaths.engine_killed, "those it ran, told why", most_s=240),
    Row("ingress killed", deaths.ingress_killed, "streams through it alone", most_s=240),
    Row("node told to end", draining.node_told_to_end, "0 cut", most_s=300),
    Row("node with room elsewhere", draining.node_with_room_elsewhere, "0 cut", most_s=300),
    Row("only engine killed", deaths.only_engine_killed, "503 within 2 s", most_s=240),
    Row("args changed", restarting.args_changed, "figure for the docs; none cut", most_s=240),
    Row(
        "a place for each model", residency.one_model_each, "each loads one; 0 refused", most_s=240
    ),
    Row("conversations stay", residency.conversations, "9 of 10 known tokens reused", most_s=240),
    Row("releases in turn", residency.one_stages, "0 refused, one stages at a time", most_s=240),
    Row("scaled by load", residency.scaled, "2 engines under load, then 1; 0 refused", most_s=300),
    Row("head killed, with Redis", headless.head_killed, "0 of 200 lost", most_s=560),
)
