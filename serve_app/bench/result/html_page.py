"""One HTML file that needs no network, about any benchmark's result. Draws no plot itself."""

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import StrictUndefined

from representation.decimals import plain
from serve_app.bench.result.environment import Environment
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Section

TEMPLATE = "bench.html.jinja"


def render(result: Result, sections: Sequence[Section]) -> str:
    """The page about a result. The same result and sections give the same page."""
    templates = Templates(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = importlib.resources.files(__package__) / "data" / TEMPLATE
    return templates.from_string(template.read_text(encoding="utf-8")).render(
        kind=result.kind,
        device=result.environment.device,
        at=result.environment.at,
        sections=sections,
        settings={name: shown(value) for name, value in result.settings.items()},
        facts=_facts(result.environment),
    )


def shown(value: Any) -> str:
    """A value in words; numbers with three significant digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "–"
    return str(value)


def _facts(environment: Environment) -> dict[str, str]:
    found = {
        "device": environment.device,
        "its memory": f"{environment.device_bytes / 2**30:.1f} GiB",
        "processor": f"{environment.cpu}, {environment.cores} cores, {environment.threads} threads"
        f" ({', '.join(environment.cpu_features) or 'no vector features that matter here'})",
        "versions": shown(environment.versions),
        "began": environment.at,
    }
    return found if environment.cuda is None else found | {"CUDA": environment.cuda}
