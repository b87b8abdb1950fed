"""What an arm is, and what all arms of a comparison share. Serves nothing itself."""

from dataclasses import dataclass, replace
from typing import Protocol

from serve_app.bench.arms.weight_specs import SourceSpec
from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import TimedJob
from serve_app.engine.config import EngineConfig
from serve_app.engine.request import Request, Sampling

KV_TOKENS = 16384
"""Room for keys and values where a ground has none of its own, for arms that cannot fit it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What an arm, or one of its processes, works with.

    source, models: the release, and those of its models that are served.   engine: its device is
    one, and not `auto`.
    """

    source: SourceSpec
    models: tuple[str, ...]
    engine: EngineConfig

    @property
    def sequence_tokens(self) -> int:
        """Tokens of keys and values for each of as many sequences as may run at once."""
        return -(-(self.engine.kv_tokens or KV_TOKENS) // self.engine.max_sequences)

    def divided(self, count: int) -> "Ground":
        """With one of `count` equal shares of the memory."""

        def part(whole: int | None) -> int | None:
            return None if whole is None else whole // count

        kv_tokens, device_memory = part(self.engine.kv_tokens), part(self.engine.device_memory)
        engine = replace(self.engine, kv_tokens=kv_tokens, device_memory=device_memory)
        return replace(self, engine=engine)


class Arm(Protocol):
    """A way of serving models, opened and ready: an `open_loop.Target` with its own memory."""

    @property
    def device_bytes(self) -> int:
        """Bytes of the device that stay allocated while it serves."""
        ...

    @property
    def facts(self) -> dict[str, float]:
        """What else there is to report after a run."""
        ...

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        """Start to answer a job, greedily and to its full length. Does not wait."""
        ...

    def close(self) -> None:
        """Free everything. Running jobs end with an error."""
        ...


def request_of(index: int, job: TimedJob, release: str) -> Request:
    """A job as a request to an engine: greedy, and ended only by its length."""
    sampling = Sampling(temperature=0.0, seed=job.seed)
    return Request(str(index), release, job.model, job.prompt, job.max_tokens, sampling)
