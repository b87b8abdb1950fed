"""What an arm is, and what all arms of a comparison have in common. Serves nothing itself."""

from dataclasses import dataclass, field, replace
from typing import Protocol

from serve_app.bench.arms.weight_specs import SourceSpec
from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import Job
from serve_app.engine.memory import Limits
from serve_app.engine.request import Request, Sampling


@dataclass(frozen=True, slots=True)
class Ground:
    """What an arm, or one process of it, stands on.

    source, models: the release, and those of its models that are served.   kv_tokens: that the
    device holds keys and values of; None for as many as engines take by themselves.
    device_memory: bytes; None for all there is.
    """

    source: SourceSpec
    models: tuple[str, ...]
    device: str
    dtype: str
    kv_tokens: int | None
    limits: Limits = field(default_factory=Limits)
    device_memory: int | None = None

    def divided(self, count: int) -> "Ground":
        """With one of `count` equal shares of the memory."""

        def part(whole: int | None) -> int | None:
            return None if whole is None else whole // count

        return replace(self, kv_tokens=part(self.kv_tokens), device_memory=part(self.device_memory))


class Arm(Protocol):
    """A way of serving models, opened and ready: a `open_loop.Target` of its own memory."""

    @property
    def device_bytes(self) -> int:
        """Bytes of the device that stay allocated while it serves."""
        ...

    @property
    def facts(self) -> dict[str, float]:
        """What else is to be said of it after a run."""
        ...

    def submit(self, index: int, job: Job, notes: Notes) -> None:
        """Begin to answer a job, greedily and to its full length; without waiting."""
        ...

    def close(self) -> None:
        """Free everything. Jobs under way end with an error."""
        ...


def request_of(index: int, job: Job, release: str) -> Request:
    """A job as an engine is asked it: greedy, and ended by its length alone."""
    sampling = Sampling(temperature=0.0, seed=job.seed)
    return Request(str(index), release, job.model, job.prompt, job.max_tokens, sampling)
