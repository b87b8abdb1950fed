"""The routes of those who run an endpoint, in front of several replicas."""

import asyncio

import httpx

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import bad_request
from serve_app.protocol.messages import AdminDone
from tests.api.fakes import FakeClient

DONE: AdminDone = {"type": "done", "replica": "x", "release": "r1"}


def _post(client: FakeClient, path: str) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=build_api(Api(client, RequestLimits())))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post(path)

    return asyncio.run(run())


def test_every_replica_is_told_and_each_answer_is_shown() -> None:
    client = FakeClient()
    client.replies = [DONE, {**DONE, "replica": "y"}]
    answer = _post(client, "/admin/models/a/pin")
    assert client.changes == [("a", "pin")]
    assert [one["replica"] for one in answer.json()["replicas"]] == ["x", "y"]


def test_a_refusal_of_one_replica_is_an_error_that_counts_those_that_did_it() -> None:
    client = FakeClient()
    client.replies = [DONE, bad_request("it is in use", "model").to_item()]
    answer = _post(client, "/admin/models/a/unload")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "1 of 2 replicas did it; it is in use"


def test_what_is_no_action_is_no_route() -> None:
    assert _post(FakeClient(), "/admin/models/a/delete").status_code == 404
