"""All rows, in the order in which they are run. Runs none."""

from tests.cluster.row import Row
from tests.cluster.rows import readiness, scaling

ROWS = (
    Row(
        "nothing serves",
        readiness.nothing_serves,
        "not RUNNING, not ready; then RUNNING",
        most_s=300,
    ),
    Row("replicas 1, 2, 1", scaling.up_and_down, "0 refused or cut", most_s=240),
)
