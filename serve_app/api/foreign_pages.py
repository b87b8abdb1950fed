"""Lets scripts of web pages use the endpoint (CORS), and tells others why not. Reads no key."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from serve_app.api.statuses import OPENAI
from serve_app.protocol.errors import bad_request


class Pages(CORSMiddleware):
    """Starlette's, whose refusals have the form of all others."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks whether a page may ask, refused as OpenAI's routes do:
        no protocol has words for this.
        """
        told = super().preflight_response(request_headers)
        if told.status_code == 200:
            return told
        asked = request_headers["origin"]
        if self.is_allowed_origin(origin=asked):
            method = request_headers["access-control-request-method"]
            message = f"Pages may not use {method} here: the methods are GET, HEAD and POST"
        else:
            message = (
                f"Pages from '{asked}' may not use this endpoint: it has to be started with"
                f" --allow-origin {asked}"
            )
        refused = OPENAI.response(bad_request(message), "")
        refused.headers["vary"] = "Origin"
        return refused
