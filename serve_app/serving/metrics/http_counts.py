"""How many requests an ingress has answered, by route and class of status. Answers none."""

from collections import Counter
from collections.abc import Collection, Mapping

from serve_app.serving.metrics.counting import Figure
from serve_app.serving.metrics.metric_row import PREFIX
from serve_app.serving.metrics.metrics_table import HTTP_REQUESTS

NO_ROUTE = "none"
"""Of other paths, and where a key was refused: what a client writes is no label."""


class HttpCounts:
    """Of one ingress, `name`. A stream that broke after its head counts by the status it had."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._counts = Counter[tuple[str, str]]()

    def count(self, route: str | None, status: int) -> None:
        """One request has been answered."""
        self._counts[route or NO_ROUTE, f"{status // 100}xx"] += 1

    def values(self) -> Mapping[tuple[str, ...], float]:
        """By the labels of `HTTP_REQUESTS`."""
        return {(self.name, *labels): num for labels, num in self._counts.items()}

    def figures(self, _: Collection[str]) -> list[Figure]:
        """For Ray's own metrics, which add the ingress themselves."""
        return [
            Figure(
                PREFIX + HTTP_REQUESTS.name,
                HTTP_REQUESTS.help,
                {"route": route, "status": status},
                float(num),
                True,
            )
            for (route, status), num in self._counts.items()
        ]
