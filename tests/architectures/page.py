"""The page about architectures, as Markdown. Tries none of them."""

from collections.abc import Sequence

from tests.architectures.trying import Found
from tests.support.served import TRANSFORMERS

HEAD = (
    "# Architectures\n\n"
    f"Every mixture of experts of transformers {TRANSFORMERS} that generates text, and whether "
    "expertpool serves it. `make architectures` writes this page: it studies a tiny model of each "
    "without weights, as `consolidate` and the engine do, and downloads nothing. What is refused "
    "there is refused in these words. In tests, models of those that are served answer as their "
    "own `generate()` does. Of wrappers the text model is served, without their other towers "
    "([checkpoints.md](checkpoints.md#towers-and-further-tokens)).\n"
)


def page(found: Sequence[Found]) -> str:
    """Two tables: what is served, and what is not and why."""
    served = [one for one in found if one.reason is None]
    others = [one for one in found if one.reason is not None]
    lines = [HEAD, f"## Served ({len(served)})", "", "| model type | class |", "| --- | --- |"]
    lines += [f"| `{one.model_type}` | `{one.name}` |" for one in served]
    lines += ["", f"## Not served ({len(others)})", "", "| model type | why |", "| --- | --- |"]
    lines += [f"| `{one.model_type}` | {_cell(one.reason or '')} |" for one in others]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", r"\<")
