"""A server on this machine that speaks S3: moto's."""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import httpx
import pytest
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class S3:
    """Buckets, which are gone with the server."""

    url: str
    filesystem: fsspec.AbstractFileSystem

    def put(self, directory: Path, path: str) -> None:
        """The files of a directory, at `bucket/prefix`; the bucket is made."""
        self.filesystem.put(str(directory), path, recursive=True)


@contextlib.contextmanager
def s3_server(home: Path, patch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Until it ends, s3:// means this server, and no other settings for S3 are read."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it has a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):  # it says where it listens
        server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": str(home / "no_config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "no_credentials"),
    }
    for name, value in settings.items():
        patch.setenv(name, value)
    forget()
    try:
        yield S3(url, fsspec.filesystem("s3"))
    finally:
        httpx.post(f"{url}/moto-api/reset").raise_for_status()  # its buckets are the process's
        server.stop()
        forget()


def forget() -> None:
    """fsspec keeps file systems, and s3fs reads its settings when it makes one."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
