"""What can go wrong while serving, as one tree. Not HTTP: `serve_app.api` knows the statuses.

ServingError
├── EngineError            the engine refused or could not do it
│   ├── UnknownRelease     no such release is loaded (any more)
│   ├── UnknownModel       the release has no such model
│   ├── TooLong            prompt and answer do not fit the context or the KV store
│   ├── DuplicateRequest   a request of that id is already in the engine
│   ├── DoesNotFit         not enough memory: says how much is needed and available
│   ├── Unsupported        an architecture, or a part of one, that the engine cannot serve
│   ├── LoadFailed         a backbone or slot could not be read
│   │   ├── BadRelease     what was read is wrong, and will be as wrong the next time
│   │   └── Unavailable    a model's backbone could not be loaded, and is tried again
│   ├── InUse              a model cannot be unloaded now
│   ├── TooManyPinned      no place would be left for models that are not pinned
│   ├── DeadlineMissed     the request did not end in the time that it was given
│   ├── GrammarLost        an answer cannot be held to its grammar any further
│   └── EngineStopped      the engine has been closed, or its loop died
├── BadGrammar             what an answer should obey cannot be obeyed
│   └── BadParameters      so it is with the parameters of a function
└── ConfigError            an operator's setting is wrong
"""

import traceback


def where(error: BaseException) -> str:
    """The kind of an error and where it came from, for a log: its words may quote a request."""
    told = []
    found: BaseException | None = error
    while found is not None:
        frames = "".join(traceback.format_tb(found.__traceback__))
        told.append(f"{type(found).__name__}:\n{frames}")
        found = found.__cause__ or found.__context__
    return "\n".join(told)


class ServingError(Exception):
    """Base of everything this package raises on purpose."""


class EngineError(ServingError):
    """The engine refused a request or a release, or could not carry it out."""


class UnknownRelease(EngineError):
    """No such release is loaded."""


class UnknownModel(EngineError):
    """The release has no such model."""


class TooLong(EngineError):
    """Prompt and answer together exceed what can be held. Sizes are in tokens."""

    def __init__(self, message: str, *, limit: int, prompt_tokens: int, max_tokens: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens


class DuplicateRequest(EngineError):
    """A request of that id is already in the engine."""


class DoesNotFit(EngineError):
    """There is not enough memory. Sizes are in bytes."""

    def __init__(self, message: str, *, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available


class Unsupported(EngineError):
    """The architecture, or a part of it, cannot be served by the engine."""


class LoadFailed(EngineError):
    """A backbone or a slot could not be read or copied."""


class InUse(EngineError):
    """A model is pinned, is being loaded, or requests need it, so it cannot be unloaded."""


class TooManyPinned(EngineError):
    """No place would be left for models that are not pinned."""


class DeadlineMissed(EngineError):
    """The request did not end in the time that it was given."""


class GrammarLost(EngineError):
    """An answer cannot be held to its grammar any further: no token may come, or it takes long."""


class BadRelease(LoadFailed):
    """A release is not what it says it is, or answers wrongly. Reading it again changes nothing."""


class Unavailable(LoadFailed):
    """A model's backbone could not be loaded a short while ago, and is tried again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineStopped(EngineError):
    """The engine has been closed, or its loop has died."""


class BadGrammar(ServingError):
    """What an answer should obey is no grammar, or one that cannot be compiled."""


class BadParameters(BadGrammar):
    """The parameters of a function are no schema that its arguments can be held to."""


class ConfigError(ServingError):
    """An operator's setting is wrong."""
