"""The roles that docs/kubernetes.md gives: enough, and no more, for a server that checks them."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import boto3
import pytest
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin

from consolidation.release import Registry
from consolidation.release.errors import StorageFailed
from consolidation.release.storage import open_storage
from tests.consolidation.release.test_registry import make_release
from tests.support.s3_server import S3, forget, s3_server

POLICIES = files("serve_app.k8s") / "manifests/components/bucket-s3/data"
URL = "s3://ours/registry"


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server(tmp_path, monkeypatch) as found:
        found.filesystem.mkdir("ours")
        with found.filesystem.open("ours/others/file", "wb") as file:
            file.write(b"not the registry's")
        yield found


def become(role: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, s3:// is asked by a user with that role's policy alone."""
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", float("inf"))
    text = (POLICIES / f"{role}-policy.json").read_text()
    policy = text.replace("BUCKET", "ours").replace("PREFIX", "registry")
    iam = boto3.client(
        "iam", endpoint_url=s3.url, aws_access_key_id="key", aws_secret_access_key="secret"
    )
    iam.create_user(UserName=role)
    iam.put_user_policy(
        UserName=role, PolicyName=role, PolicyDocument=json.dumps(json.loads(policy))
    )
    key = iam.create_access_key(UserName=role)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    forget()
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr(ActionAuthenticatorMixin, "request_count", 1)


def test_who_consolidates_writes_the_registry_and_who_serves_only_reads_it(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    become("consolidate", s3, monkeypatch)
    registry = Registry(URL, "fam")
    registry.storage.check()
    release = registry.publish(make_release(registry))
    registry.move_channel("stable", release)
    registry.move_channel("stable", registry.publish(make_release(registry, 2.0)), expected=release)
    registry.storage.write("work/left", b"x")
    registry.storage.remove("work/left")
    registry.storage.write("work/left", b"x")
    registry.storage.remove_files(["work/left"])
    with pytest.raises(StorageFailed):
        open_storage("s3://ours/others").write("file", b"x")

    become("serve", s3, monkeypatch)
    registry = Registry(URL, "fam")
    registry.storage.check()
    channel = registry.channel("stable")
    assert channel is not None
    blob = registry.read_manifest(channel.release).layers[0].slots[0]
    assert registry.read_tensors(blob)
    with pytest.raises(StorageFailed):
        registry.storage.write("channels/stable.json", b"{}")
    with pytest.raises(StorageFailed):
        open_storage("s3://ours/others").read("file")
