"""Which replica a job should go to. Decides by values alone: knows no Ray, and remembers nothing.

A replica that holds the model on its device answers at once; another loads it first, and may push
out one that others need. A model that no replica holds goes where a place is free, or else where
least is asked. Where replicas hold some models each, a model that two hold is asked of one of them,
so that the other's copy gives way to a model that nobody holds.

Where a replica holds all models, jobs that begin alike go to the same one, which has keys and
values of that beginning. Which one that is follows from digests (rendezvous hashing; Thaler and
Ravishankar, 1998), so all ingresses choose alike without asking each other, and a replica that
comes or goes moves only its own share. A replica that is much busier than the others gets nothing
by preference (consistent hashing with bounded loads; Mirrokni et al., 2018).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from serve_app.serving.routing.replica_facts import ReplicaFacts

TIMES_MEAN = 1.25
MORE_JOBS = 4
"""A replica is busy with more jobs than so many times the mean, and so many more."""
CHARACTERS = 4096
"""How much of each text of a beginning counts."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that could take a job. ongoing: jobs that it has, as far as is known here."""

    name: str
    ongoing: int
    facts: ReplicaFacts


@dataclass(frozen=True, slots=True)
class Sought:
    """What a job asks of a replica. release: the one that must answer, if there is one.

    beginning: a digest of how its text begins; jobs with equal ones can share keys and values.
    """

    model: str
    beginning: bytes
    release: str | None = None


def sought_by(job: Mapping[str, Any]) -> Sought | None:
    """What a job asks for; None for what any replica may answer.

    A conversation begins with all up to its first message by the user: its later turns begin so
    too, and other conversations under the same instructions do not.
    """
    model = job.get("model")
    if not isinstance(model, str):
        return None
    told = blake2b(repr((job.get("tenant"), model)).encode(), digest_size=16)
    chat, prompts = job.get("chat"), job.get("prompts")
    for text in _of_chat(chat["messages"]) if chat else _of_prompts(prompts or ()):
        told.update(text)
    return Sought(model, told.digest(), job.get("release"))


def ranked(candidates: Sequence[Candidate], sought: Sought | None) -> list[str]:
    """Names of all candidates, the best first."""
    if sought is None:
        return [one.name for one in sorted(candidates, key=lambda one: one.ongoing)]
    mean = sum(one.ongoing for one in candidates) / max(1, len(candidates))
    most = TIMES_MEAN * mean + MORE_JOBS

    def order(one: Candidate) -> tuple[bool, bool, bool, bool, bool, int, bytes]:
        facts = one.facts
        holds = sought.model in facts.resident
        alike = sought.beginning if facts.has_all else sought.model.encode()
        return (
            sought.release is not None and sought.release not in facts.releases,
            not facts.admits,
            one.ongoing > most,
            not holds,
            not holds and not facts.has_room,
            0 if holds else one.ongoing,
            blake2b(alike + b"\0" + one.name.encode(), digest_size=8).digest(),
        )

    return [one.name for one in sorted(candidates, key=order)]


def _of_chat(messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    texts = []
    for message in messages:
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content)
        texts.append(f"{message.get('role')}\0{text[:CHARACTERS]}\0".encode())
        if message.get("role") == "user":
            break
    return texts


def _of_prompts(prompts: Sequence[str | bytes]) -> list[bytes]:
    """Of the first: the others of a request are its neighbours anyway."""
    if not prompts:
        return []
    first = prompts[0][: CHARACTERS // 4]
    return [first.encode(errors="surrogatepass") if isinstance(first, str) else first]
