"""A limit per minute that lets what was saved up go at once. Knows no tenant and no clock."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """At most `per_minute` at once, and so many more each minute. Times are in seconds, and never
    go back.

    What is taken may be more than there is if the caller says so: the level is then below 0, and
    nothing more goes until it has risen. So what goes in any span of t seconds is at most
    per_minute × (1 + t / 60), plus the last overdraft.
    """

    per_minute: int
    now: float
    _level: float = field(init=False)

    def __post_init__(self) -> None:
        self._level = float(self.per_minute)

    def level(self, now: float) -> float:
        """How much may be taken."""
        if now > self.now:
            grown = self._level + (now - self.now) * self.per_minute / 60
            self._level = min(grown, float(self.per_minute))
            self.now = now
        return self._level

    def has(self, amount: float, now: float) -> bool:
        """Whether so much may be taken; more than fits counts as all that fits."""
        return self.level(now) >= min(amount, self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """Take it even if it is not there."""
        self.level(now)
        self._level -= amount

    def give_back(self, amount: float, now: float) -> None:
        """What was taken and not used."""
        self._level = min(self.level(now) + amount, float(self.per_minute))

    def wait_s(self, amount: float, now: float) -> float:
        """How long until it `has` so much, if nobody takes any meanwhile."""
        short = min(amount, self.per_minute) - self.level(now)
        return max(0.0, short * 60 / self.per_minute)

    def full_s(self, now: float) -> float:
        """How long until it is full."""
        return self.wait_s(self.per_minute, now)
