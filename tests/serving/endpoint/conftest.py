"""One endpoint for all tests of this folder: starting one takes many seconds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consolidation.run.ray_start import patient_start
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.run import endpoint, free_port
from tests.serving.endpoint.served import MODELS, Served
from tests.serving.family import FAMILY, TinyFamily

RESPONSE_TEMPLATE: dict[str, Any] = {
    "forced": {
        "open": "<call ",
        "after_name": ">",
        "after_reasoning": "",
        "json": {"begins": "<call ", "after": "</call>", "again": "<call ", "ends": ""},
    },
    "response_template": {
        "start_anchor": "assistant: ",
        "fields": {
            "content": {"content_args": {"strip": False}},
            "tool_calls": {
                "open_pattern": r"<call (?P<name>\w+)>",
                "close": "</call>",
                "repeats": True,
                "content": "json",
                "transform": {"function": {"name": "{name}", "arguments": "{content}"}},
            },
        },
    },
}
"""Models that were never trained to call a tool call one if they are made to."""


def _show_tools(root: Path) -> None:
    """Lets the chat templates of all models name the tools that a request offers."""
    files = list(root.glob("*/chat_template.jinja"))
    assert files
    for file in files:
        file.write_text(
            "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + file.read_text()
        )


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    family = TinyFamily(tmp_path_factory.mktemp("family"))
    family.make_models(["a", "b", "c", "d"])
    _show_tools(family.root)
    template = family.root / "template.json"
    template.write_text(json.dumps(RESPONSE_TEMPLATE))
    first = family.publish(MODELS, channel="stable")
    second = family.publish([*MODELS, "d"])
    config = ServeConfig(
        registry=family.url,
        family=FAMILY,
        engine=EngineConfig(device="cpu", dtype="float32", kv_tokens=4096),
        response_template=str(template),
    )
    with endpoint(
        config, UserConfig(channel="stable"), free_port(), starting=patient_start
    ) as address:
        made = Served(address, family, (first, second))
        made.until_serving(first)
        yield made
