"""A run of a suspended RayJob, against a server that answers as the API of Kubernetes does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serve_app.k8s.job_run import Api, ApiError, address_of, copy_of, exit_code_of, run
from tests.k8s.support import a_set, of_kind

PATH = "/apis/ray.io/v1/namespaces/pool/rayjobs"
FAILED = "Job entrypoint command failed with exit code 2, last available logs: error: no recipe"


class Cluster(ThreadingHTTPServer):
    """Knows one pattern; `statuses` are those of the copy, one for each time it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.made: list[Any] = []
        self.tokens: set[str] = set()
        self.statuses: list[Any] = []


class Answer(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers["Authorization"])
        if self.path == f"{PATH}/expertpool-consolidate":
            self._give(200, of_kind(a_set(), "RayJob"))
        elif self.path == f"{PATH}/copy-1":
            status = self.server.statuses.pop(0)
            self._give(500 if status is None else 200, {"status": status})
        else:
            self._give(404, {"message": "not found"})

    def do_POST(self) -> None:
        self.server.made.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._give(201, {"metadata": {"name": "copy-1"}})

    def _give(self, code: int, body: Any) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(cluster: Cluster, tmp_path: Path) -> Api:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "namespace").write_text("pool\n")
    return Api(f"http://127.0.0.1:{cluster.server_port}", tmp_path)


def test_a_copy_of_the_pattern_runs_and_its_exit_code_is_ours(cluster: Cluster, api: Api) -> None:
    failed = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": FAILED}
    cluster.statuses = [{}, {"jobDeploymentStatus": "Running"}, None, failed]
    said: list[str] = []
    waited: list[float] = []
    assert run(api, "expertpool-consolidate", said.append, waited.append) == 2
    [made] = cluster.made
    assert made["metadata"]["generateName"] == "expertpool-consolidate-run-"
    assert "suspend" not in made["spec"]
    assert cluster.tokens == {"Bearer secret"}
    assert len(waited) == 3
    assert said[0] == "RayJob copy-1 is made"
    assert "500" in said[2]
    assert said[3].startswith("RayJob copy-1: Failed Job entrypoint command failed")


def test_a_pattern_that_is_not_there_is_named_and_nothing_is_made(
    cluster: Cluster, api: Api
) -> None:
    with pytest.raises(ApiError, match=r"rayjobs/other: 404: .*not found"):
        run(api, "other", print)
    assert cluster.made == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({}, None),
        ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, None),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, 0),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": FAILED}, 2),
        ({"jobDeploymentStatus": "Failed", "message": "Ray head pod not found."}, 1),
        ({"jobDeploymentStatus": "Failed", "message": "failed with exit code 0"}, 1),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 1),
    ],
)
def test_how_a_job_ended_is_an_exit_code(status: dict[str, str], code: int | None) -> None:
    assert exit_code_of(status) == code


def test_a_copy_has_nothing_that_the_cluster_wrote() -> None:
    pattern = of_kind(a_set(), "RayJob")
    pattern["metadata"] |= {"uid": "1", "resourceVersion": "2"}
    copied = copy_of(pattern | {"status": {"x": 1}})
    assert set(copied) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(copied["metadata"]) == {"namespace", "labels", "generateName"}


def test_the_address_of_the_api_is_that_of_the_pod() -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert address_of(pod) == "https://[fd00::1]:6443"
    with pytest.raises(ApiError, match="KUBERNETES_SERVICE_HOST is not set"):
        address_of({})
