"""One run of a RayJob that is there as a pattern: copies it, waits, and says how it ended.

Runs in a pod, by the account of that pod. What the job does is its own.
"""

import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serve_app.k8s.kustomize import Object

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SUFFIX = "-run-"
_ENDED = frozenset({"Complete", "Failed"})
_EXIT = re.compile(r"exit code (\d+)")
_POLL_S = 10.0
_TIMEOUT_S = 30.0


class ApiError(Exception):
    """The API of Kubernetes refused, or could not be asked."""


class Api:
    """RayJobs of one namespace.   address: of the API.   account: a folder with token and CA."""

    def __init__(self, address: str, account: Path = ACCOUNT) -> None:
        self._address = address
        self._account = account
        namespace = (account / "namespace").read_text(encoding="utf-8").strip()
        self._path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        authority = account / "ca.crt"
        self._context = (
            ssl.create_default_context(cafile=str(authority)) if authority.exists() else None
        )

    def read(self, name: str) -> Object:
        """Raises ApiError."""
        return self._ask("GET", f"/{name}", None)

    def create(self, job: Object) -> Object:
        """The job as it was made, with its name. Raises ApiError."""
        return self._ask("POST", "", job)

    def _ask(self, method: str, path: str, body: Object | None) -> Object:
        # Read each time: the kubelet renews it.
        token = (self._account / "token").read_text(encoding="utf-8").strip()
        request = urllib.request.Request(
            f"{self._address}{self._path}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(
                request, timeout=_TIMEOUT_S, context=self._context
            ) as answer:
                read: Object = json.load(answer)
                return read
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors="replace")[:500]
            raise ApiError(f"{method} {self._path}{path}: {error.code}: {words}") from error
        except OSError as error:
            raise ApiError(f"{method} {self._path}{path}: {error}") from error


def address_of(environment: Mapping[str, str]) -> str:
    """Of the API, as a pod is told it. Raises ApiError outside of a cluster."""
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise ApiError("KUBERNETES_SERVICE_HOST is not set: this runs in a pod of a cluster")
    name = f"[{host}]" if ":" in host else host
    return f"https://{name}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}"


def copy_of(pattern: Object) -> Object:
    """A job as the pattern says, which runs. What the cluster has written on it is left out."""
    metadata = pattern["metadata"]
    kept = {key: metadata[key] for key in ("namespace", "labels") if key in metadata}
    return {
        "apiVersion": pattern["apiVersion"],
        "kind": pattern["kind"],
        "metadata": kept | {"generateName": f"{metadata['name']}{_SUFFIX}"},
        "spec": {key: value for key, value in pattern["spec"].items() if key != "suspend"},
    }


def exit_code_of(status: Mapping[str, Any]) -> int | None:
    """0, or that of the job's command, or 1 if it failed without one; None while it runs."""
    state = status.get("jobDeploymentStatus")
    if state not in _ENDED:
        return None
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    found = _EXIT.search(str(status.get("message", "")))
    return int(found[1]) or 1 if found else 1


def run(
    api: Api,
    name: str,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run a copy of the job `name` to its end; return the exit code of its command.

    say: told what changes. An API that cannot be asked is asked again.   Raises ApiError if the
    pattern cannot be read, or the copy cannot be made.
    """
    made = api.create(copy_of(api.read(name)))["metadata"]["name"]
    say(f"RayJob {made} is made")
    told = ""
    while True:
        try:
            status = api.read(made).get("status") or {}
        except ApiError as error:
            say(str(error))
            status = {}
        state = str(status.get("jobDeploymentStatus", ""))
        if state and state != told:
            say(f"RayJob {made}: {state} {status.get('message', '')}".rstrip())
            told = state
        if (code := exit_code_of(status)) is not None:
            return code
        sleep(_POLL_S)
