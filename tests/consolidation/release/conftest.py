"""A bucket on a server of this machine."""

from collections.abc import Iterator

import pytest

from tests.support.s3_server import S3, s3_server


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with (
        pytest.MonkeyPatch.context() as patch,
        s3_server(tmp_path_factory.mktemp("s3"), patch) as found,
    ):
        found.filesystem.mkdir("bucket")
        yield found
