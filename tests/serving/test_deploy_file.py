"""`deploy/local.yaml`: every key is one that Ray Serve knows; it would ignore a misspelt one."""

import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from serve_app.config import ServeConfig, UserConfig
from serve_app.serving import app

FILE = Path(__file__).parents[2] / "deploy" / "local.yaml"


def unknown_keys(value: Any, schema: Any, where: str = "") -> list[str]:
    """Keys of `value` that are no fields of the pydantic `schema`, at any depth."""
    models = list(_models(schema))
    if isinstance(value, list):
        return [key for item in value for key in unknown_keys(item, schema, where)]
    if not isinstance(value, dict) or not models:
        return []
    found = []
    for key, inner in value.items():
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        if not fields:
            found.append(f"{where}{key}")
        for field in fields[:1]:
            found += unknown_keys(inner, field.annotation, f"{where}{key}.")
    return found


def _models(schema: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        yield schema
    elif typing.get_origin(schema) in (typing.Union, types.UnionType, list):
        for inner in typing.get_args(schema):
            yield from _models(inner)


@pytest.fixture
def config() -> Any:
    return yaml.safe_load(FILE.read_text())


def test_every_key_is_known(config: Any) -> None:
    assert unknown_keys(config, ServeDeploySchema) == []
    ServeDeploySchema.model_validate(config)


def test_a_misspelt_key_would_be_found(config: Any) -> None:
    config["applications"][0]["deployments"][0]["max_ongoing_request"] = 5
    config["aplications"] = []
    assert unknown_keys(config, ServeDeploySchema) == [
        "applications.deployments.max_ongoing_request",
        "aplications",
    ]


def test_every_deployment_is_listed(config: Any) -> None:
    [application] = config["applications"]
    assert application["import_path"] == f"{app.__name__}:{app.build.__name__}"
    listed = [deployment["name"] for deployment in application["deployments"]]
    assert sorted(listed) == sorted(app.DEPLOYMENTS)
    [engine] = [each for each in application["deployments"] if each["name"] == "Engine"]
    UserConfig.model_validate(engine["user_config"])
    ServeConfig.model_validate(application["args"])


def test_the_environment_fills_what_the_arguments_leave_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXPERTPOOL_FAMILY", "mine")
    monkeypatch.setenv("EXPERTPOOL_DEVICE_MEMORY", "1000")
    monkeypatch.setenv("EXPERTPOOL_HOST_MEMORY", "2000")
    config = app.config_of({"registry": "memory://x"})
    assert (config.family, config.registry) == ("mine", "memory://x")
    assert (config.device_memory, config.host_memory) == (1000, 2000)
    assert app.config_of({"family": "yours"}).family == "yours"
    assert app.config_of({}).registry == str(Path("registry").resolve())


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="famly"):
        app.build({"famly": "x"})
