"""Where one answer is in its grammar. Chooses no token."""

from collections.abc import Collection

from serve_app.grammar.vocabulary import Grammar


class Following:
    """Follows the tokens of one answer. Not from two threads at once.

    stops: tokens that end the answer, which may come where the grammar accepts, once `min_tokens`
    have come before.   is_over: nothing may follow, so the answer has ended.   lost: why no token
    can be chosen any more.
    """

    __slots__ = ("is_over", "lost", "matcher", "min_tokens", "num_taken", "stops", "vocabulary")

    def __init__(self, grammar: Grammar, stops: Collection[int], min_tokens: int) -> None:
        self.vocabulary = grammar.vocabulary
        self.matcher = grammar.matcher()
        self.stops = stops
        self.min_tokens = min_tokens
        self.num_taken = 0
        self.is_over = False
        self.lost: str | None = None

    @property
    def may_stop(self) -> bool:
        """Whether enough tokens have come for a stop."""
        return self.num_taken >= self.min_tokens

    def take(self, number: int, token: int) -> None:
        """The answer's token of that number, from 0. Nothing happens if it was taken before."""
        if number < self.num_taken or self.is_over or self.lost is not None:
            return
        may_stop = self.may_stop
        self.num_taken = number + 1
        if may_stop and token in self.stops:
            self.is_over = True
        elif not self.matcher.consume_token(token):
            self.lost = f"the model gives no token that may follow the first {number}"
        elif self.matcher.is_stopped():  # or it has given up
            self.look()
            self.is_over = self.lost is None

    def look(self) -> None:
        """Whether the matcher has given up, as a grammar may be too complex at some place."""
        if self.matcher.is_error():
            self.lost = " ".join(self.matcher.get_error().split())
