"""What is left of a tenant's limits, and what each of its requests takes. Knows no HTTP.

A request is counted when it comes. Its tokens are reserved when it is accepted, since only then
the length of its prompt is known: the prompt and the longest answer that it may get. What the
answer did not use is given back when it ends. A reservation is never more than a minute's tokens,
so a request that asks for more than those is served if nothing else is running; if it then uses
more, the tenant waits longer for the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.tenants.keys_file import Limits
from serve_app.tenants.token_bucket import TokenBucket

_BUSY_WAIT_S = 1.0
"""What a caller is told to wait for one of its own requests to end."""


class OverLimit(Exception):
    """The tenant has used what it may. wait_s: how long until the same may go."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Left:
    """Of one limit per minute. reset_s: how long until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


class Allowance:
    """One tenant's buckets and running requests, at one ingress."""

    def __init__(self, name: str, limits: Limits, now: float) -> None:
        self._name = name
        self._num_open = 0
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self._limits = Limits()
        self.set_limits(limits, now)

    def set_limits(self, limits: Limits, now: float) -> None:
        """Take up other limits. A bucket whose limit changes is full again."""
        before, self._limits = self._limits, limits
        if limits.requests_per_minute != before.requests_per_minute:
            self._requests = _bucket(limits.requests_per_minute, now)
        if limits.tokens_per_minute != before.tokens_per_minute:
            self._tokens = _bucket(limits.tokens_per_minute, now)

    def begin(self, now: float) -> "Use":
        """A request has come. Raises OverLimit, and counts nothing."""
        most = self._limits.concurrent_requests
        if most is not None and self._num_open >= most:
            raise OverLimit(
                f"Tenant '{self._name}' has {self._num_open} requests open; its limit is {most}",
                _BUSY_WAIT_S,
            )
        for bucket, amount, what in ((self._requests, 1, "requests"), (self._tokens, 1, "tokens")):
            if bucket is not None and not bucket.has(amount, now):
                raise self._over(bucket, amount, what, now)
        if self._requests is not None:
            self._requests.take(1, now)
        self._num_open += 1
        return Use(self)

    def left(self, now: float) -> Mapping[str, Left]:
        """By "requests" and "tokens": what has a limit."""
        buckets = {"requests": self._requests, "tokens": self._tokens}
        return {
            what: Left(bucket.per_minute, max(0, int(bucket.level(now))), bucket.full_s(now))
            for what, bucket in buckets.items()
            if bucket is not None
        }

    def reserve(self, num_tokens: int, now: float) -> int:
        """-> how much of them is reserved. Raises OverLimit, and takes nothing."""
        if self._tokens is None:
            return 0
        if not self._tokens.has(num_tokens, now):
            raise self._over(self._tokens, num_tokens, "tokens", now)
        reserved = min(num_tokens, self._tokens.per_minute)
        self._tokens.take(reserved, now)
        return reserved

    def end(self, reserved: int, used: int, now: float) -> None:
        """A request has ended."""
        self._num_open -= 1
        if self._tokens is None:
            return
        if used > reserved:
            self._tokens.take(used - reserved, now)
        else:
            self._tokens.give_back(reserved - used, now)

    def _over(self, bucket: TokenBucket, amount: int, what: str, now: float) -> OverLimit:
        return OverLimit(
            f"Rate limit reached for tenant '{self._name}': {bucket.per_minute} {what} per minute,"
            f" {max(0, int(bucket.level(now)))} left, {amount} needed",
            bucket.wait_s(amount, now),
        )


class Use:
    """What one request takes of an allowance, from `begin` until `end`."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._reserved = 0
        self._prompt = 0
        self._is_open = True

    def reserve(self, prompt_tokens: int, answer_tokens: int, now: float) -> None:
        """It was accepted. Raises OverLimit; the request must not go on then."""
        self._reserved = self._allowance.reserve(prompt_tokens + answer_tokens, now)
        self._prompt = prompt_tokens

    def end(self, num_answered: int, now: float) -> None:
        """It has ended, however that was, with so many tokens of answers. Once is enough."""
        if self._is_open:
            self._is_open = False
            self._allowance.end(self._reserved, self._prompt + num_answered, now)


def _bucket(per_minute: int | None, now: float) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute, now)
