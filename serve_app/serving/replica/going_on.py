"""Refuses what is asked of an answer as if it went on from the prompt. Looks at the job alone.

An encoder–decoder model reads a prompt with its encoder; its answer begins anew, with its decoder.
"""

from serve_app.protocol.errors import ProtocolError, unsupported
from serve_app.protocol.messages import Job


def refuse_going_on(job: Job, model: str) -> None:
    """For a job of an encoder–decoder model. Raises ProtocolError."""
    chat = job["chat"]
    if job["echo"]:
        what = "A prompt cannot be echoed here, and its tokens have no log-probabilities"
        raise _meaningless("echo", what, model)
    if chat is not None and chat["continues"]:
        raise _meaningless("continue_final_message", "A last message cannot be continued", model)
    if chat is not None and chat["forced"] is not None:
        raise _meaningless("tool_choice", "The beginning of a call cannot be given", model)


def _meaningless(param: str, what: str, model: str) -> ProtocolError:
    why = f"model '{model}' reads prompts with its encoder, and its answers begin anew"
    return unsupported(param, f"{what}: {why}")
