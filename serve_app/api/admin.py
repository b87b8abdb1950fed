"""The routes of those who run an endpoint. They change what is in memory, and nothing else."""

from typing import get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api.recording import Handler
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import AdminAction, AdminDone, AdminSection, EngineClient

SECTIONS: tuple[AdminSection, ...] = get_args(AdminSection)
ACTIONS: tuple[AdminAction, ...] = get_args(AdminAction)


def admin_handlers(client: EngineClient) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of each route. All replicas are asked, and told."""
    return [
        *(("GET", f"/admin/{section}", _telling(client, section)) for section in SECTIONS),
        *(("POST", f"/admin/models/{{model}}/{act}", _changing(client, act)) for act in ACTIONS),
    ]


def _telling(client: EngineClient, section: AdminSection) -> Handler:
    async def tell(_: Request) -> Response:
        facts = await client.admin()
        replicas = [{"replica": one["replica"], section: one[section]} for one in facts]
        return JSONResponse({"replicas": replicas})

    return tell


def _changing(client: EngineClient, action: AdminAction) -> Handler:
    async def change(request: Request) -> Response:
        model = request.path_params["model"]
        done: list[AdminDone] = []
        refused: list[ProtocolError] = []
        for reply in await client.change(model, action):
            if reply["type"] == "error":
                refused.append(ProtocolError.of_item(reply))
            else:
                done.append(reply)
        if refused and not done:
            raise refused[0]
        if refused:
            told = (
                f"{len(done)} of {len(done) + len(refused)} replicas did it; {refused[0].message}"
            )
            raise ProtocolError(refused[0].code, told, refused[0].param)
        replicas = [{"replica": one["replica"], "release": one["release"]} for one in done]
        return JSONResponse({"model": model, "action": action, "replicas": replicas})

    return change
