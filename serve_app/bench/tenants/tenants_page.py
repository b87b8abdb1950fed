"""What tenants do to each other: the rows as a table and a plot."""

from collections.abc import Sequence

from serve_app.bench.bars import bars_page
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Section


def sections(result: Result) -> Sequence[Section]:
    """As for the speed targets: which are met, and by how much."""
    return bars_page.sections(result)
