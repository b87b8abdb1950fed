"""One endpoint for all tests of this folder: starting one takes many seconds."""

from collections.abc import Iterator

import pytest

from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.run import endpoint, free_port
from tests.serving.endpoint.served import MODELS, Served
from tests.serving.family import FAMILY, TinyFamily


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    family = TinyFamily(tmp_path_factory.mktemp("family"))
    family.make_models(["a", "b", "c", "d"])
    first = family.publish(MODELS, channel="stable")
    second = family.publish([*MODELS, "d"])
    config = ServeConfig(
        registry=family.url,
        family=FAMILY,
        engine=EngineConfig(device="cpu", dtype="float32", kv_tokens=4096),
    )
    with endpoint(config, UserConfig(channel="stable"), free_port()) as address:
        made = Served(address, family, (first, second))
        made.until_serving(first)
        yield made
