"""What a request for an alias asks of the model it stands for. Changes values, asks nobody."""

from collections.abc import Sequence
from typing import Any

from consolidation.release import Alias, Aliases
from serve_app.protocol.messages import Job, TokenizeJob

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
    meant["messages"] = _messages(job["messages"], alias)
    meant["chat_template_kwargs"] = {**alias.chat_template_kwargs, **job["chat_template_kwargs"]}
    return meant


def tokenize_job_for(job: TokenizeJob, alias: Alias | None) -> TokenizeJob:
    """As `job_for`, so that a chat has the tokens that a request would have."""
    if alias is None:
        return job
    meant = job.copy()
    meant["model"] = alias.model
    meant["messages"] = _messages(job["messages"], alias)
    meant["chat_template_kwargs"] = {**alias.chat_template_kwargs, **job["chat_template_kwargs"]}
    return meant


def _messages(
    messages: Sequence[dict[str, Any]] | None, alias: Alias
) -> list[dict[str, Any]] | None:
    if messages is None:
        return None
    own = any(message["role"] in _SYSTEM for message in messages)
    if alias.system is None or own:
        return list(messages)
    return [{"role": "system", "content": alias.system}, *messages]
