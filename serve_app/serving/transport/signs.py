"""What an error, or an item, says about the engine that it comes from. Asks nobody."""

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from serve_app.protocol.messages import Item, Job
from serve_app.serving.transport.carrier import CarrierGone
from serve_app.serving.transport.inbox import Inbox


def means_death(error: Exception) -> bool:
    """Whether the engine's process may have died. What it raises, or what cannot be sent to it or
    back, does not mean that.
    """
    if isinstance(error, CarrierGone):
        return True
    if isinstance(error, grpc.RpcError):
        return error.code() is not grpc.StatusCode.UNKNOWN  # that of an exception in a handler
    is_of_ray = isinstance(error, RayError | RayServeException)
    return is_of_ray and not isinstance(error, RayTaskError)


def serves_nothing(first: Item) -> bool:
    """Whether an engine says so, by the first item of a job."""
    return first["type"] == "error" and first["code"] == "loading" and "retry_after_s" not in first


def is_written(job: Job, inbox: Inbox) -> bool:
    """Whether the client may have something of the answer."""
    return job["streamed"] and inbox.has_answer
