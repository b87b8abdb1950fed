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
from serve_app.engine.config import EngineConfig
from serve_app.errors import ConfigError
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
    assert sorted(listed) == sorted([app.INGRESS, app.ENGINE])
    [engine] = [each for each in application["deployments"] if each["name"] == "Engine"]
    UserConfig.model_validate(engine["user_config"])
    ServeConfig.model_validate(application["args"])


def test_the_environment_fills_what_the_arguments_leave_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXPERTPOOL_FAMILY", "mine")
    monkeypatch.setenv("EXPERTPOOL_DEVICE_MEMORY", "24GiB")
    monkeypatch.setenv("EXPERTPOOL_HOST_MEMORY", "2000")
    monkeypatch.setenv("EXPERTPOOL_CUDA_GRAPHS", "false")
    monkeypatch.setenv("EXPERTPOOL_POLL_S", "0.5")
    monkeypatch.setenv("EXPERTPOOL_DTYPE", "")
    config = app.config_of({"registry": "memory://x", "kv_tokens": "4096"})
    assert (config.family, config.registry, config.poll_s) == ("mine", "memory://x", 0.5)
    assert config.engine == EngineConfig(
        device_memory=24 << 30, host_memory=2000, cuda_graphs=False, kv_tokens=4096
    )
    assert app.config_of({"family": "yours"}).family == "yours"
    assert app.config_of({}).registry == str(Path("registry").resolve())


def test_what_replicas_are_handed_is_the_configuration() -> None:
    config = ServeConfig(family="f", engine=EngineConfig(device="cpu", device_memory=5000))
    handed = config.model_dump(mode="json")
    assert handed["device_memory"] == 5000
    assert ServeConfig.model_validate(handed) == config


@pytest.mark.parametrize("args", [{"device_memory": "24 apples"}, {"step_tokens": 0}])
def test_a_wrong_setting_of_the_engine_is_named_with_its_value(args: dict[str, Any]) -> None:
    [(name, value)] = args.items()
    with pytest.raises(ConfigError, match=f"{name}: {value!r} is "):
        app.build(args)


def test_the_engine_has_no_table_of_its_own_in_a_file() -> None:
    with pytest.raises(ValidationError, match="engine"):
        app.build({"engine": {"device": "cpu"}})


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="famly"):
        app.build({"famly": "x"})


def test_through_ray_serve_an_endpoint_needs_keys_or_says_that_it_wants_none(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="insecure_no_keys: true"):
        app.build({"device": "cpu"})
    with pytest.raises(ConfigError, match="there is no such file"):
        app.build({"device": "cpu", "keys": str(tmp_path / "keys.yaml")})
    (tmp_path / "keys.yaml").write_text("tenants: {acme: {}}")
    with pytest.raises(ValidationError, match="not both"):
        app.build({"keys": str(tmp_path / "keys.yaml"), "insecure_no_keys": True})
    assert app.build({"device": "cpu", "keys": str(tmp_path / "keys.yaml")})
    assert app.build({"device": "cpu", "insecure_no_keys": True})


def test_the_keys_file_is_found_from_another_working_directory() -> None:
    assert app.config_of({"keys": "keys.yaml"}).keys == str(Path("keys.yaml").resolve())
    assert app.config_of({"keys": "s3://bucket/keys.yaml"}).keys == "s3://bucket/keys.yaml"
