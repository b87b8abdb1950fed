"""What a request for an alias asks of the model it stands for. Changes values, asks nobody."""

from typing import Any

from consolidation.release import Alias, Aliases
from serve_app.protocol.messages import Conversation, Job, TokenizeJob

_SYSTEM = ("system", "developer")


def alias_of(aliases: Aliases | None, name: str) -> Alias | None:
    """What a name stands for; None if it is no alias. An alias goes before a model of its name."""
    return None if aliases is None else aliases.aliases.get(name)


def job_for(job: Job, alias: Alias | None) -> Job:
    """The same request for the alias's model, with its defaults where it says nothing itself."""
    if alias is None:
        return job
    meant = job.copy()
    meant["model"] = alias.model
    meant["sampling"] = {**alias.sampling, **job["sampling"]}
    meant["chat"] = _chat(job["chat"], alias)
    return meant


def tokenize_job_for(job: TokenizeJob, alias: Alias | None) -> TokenizeJob:
    """As `job_for`, so that a chat has the tokens that a request would have."""
    if alias is None:
        return job
    meant = job.copy()
    meant["model"] = alias.model
    meant["chat"] = _chat(job["chat"], alias)
    return meant


def _chat(chat: Conversation | None, alias: Alias) -> Conversation | None:
    if chat is None:
        return None
    variables = {**alias.chat_template_kwargs, **chat["variables"]}
    return {**chat, "messages": _messages(chat["messages"], alias), "variables": variables}


def _messages(messages: list[dict[str, Any]], alias: Alias) -> list[dict[str, Any]]:
    own = any(message["role"] in _SYSTEM for message in messages)
    if alias.system is None or own:
        return messages
    return [{"role": "system", "content": alias.system}, *messages]
