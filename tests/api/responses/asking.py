"""Requests for responses, as tests make them."""

import json
from typing import Any

from serve_app.api.requests.parse import parse
from serve_app.api.responses.response_fields import ResponseFields
from serve_app.api.responses.response_job import response_job
from serve_app.config import RequestLimits
from serve_app.protocol.messages import Job
from serve_app.tenants.keyring import ANYBODY


def asked(**fields: Any) -> ResponseFields:
    body = {"model": "m", "input": "hi", **fields}
    return parse(json.dumps(body).encode(), ResponseFields)


def job_of(limits: RequestLimits | None = None, **fields: Any) -> Job:
    return response_job(asked(**fields), limits or RequestLimits(), job="resp_1", caller=ANYBODY)
