"""Checks a release on the engine before anybody may ask it. Decides nothing about what follows.

Each model gets one request like any other, in the steps of those that run. Its golden prompt is
forced along its tokens, and the engine's log-probabilities are compared with the logits that the
release states. A model without a golden prompt gets any tokens, and must answer with numbers.
"""

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence

from consolidation.release import Golden, golden_tolerance
from representation.decimals import plain
from representation.text_fields import text_fields
from serve_app.engine.request import (
    Event,
    Failed,
    Logprob,
    PromptLogprobs,
    Request,
    Sampling,
    Token,
)
from serve_app.errors import BadRelease, Unavailable
from serve_app.serving.replica.dependencies import Loop, ReplicaSource
from serve_app.serving.replica.post import outcome
from serve_app.serving.replica.prepare import ServedModel
from serve_app.text.process.text_messages import TokenizerFacts

TENANT = "verifying a release"
"""No name of a tenant has a space."""
CHUNK_TOKENS = 8
"""The most tokens of a prompt in a step, so that those who run hardly notice."""
PROMPT_TOKENS = 16
"""Of a model without a golden prompt."""


class Verification:
    """Which models of a release are still to be verified: at first all, later those that could not
    be loaded.
    """

    def __init__(self, source: ReplicaSource, models: Collection[ServedModel]) -> None:
        self._source = source
        self._due = {model.name: model for model in models}
        self._asking = asyncio.Lock()

    async def all(self, loop: Loop, *, may_lack: bool) -> None:
        """Raises BadRelease, naming the model; EngineError if a model could not be asked.

        may_lack: whether models that are unavailable may be verified later, unless all are.
        """
        there, found = len(self._due), None
        for name in list(self._due):
            try:
                await self.one(loop, name)
            except Unavailable as error:
                if not may_lack:
                    raise
                found = error
        if found is not None and len(self._due) == there:
            raise found

    async def one(self, loop: Loop, name: str) -> None:
        """Verifies a model, unless that has been done. Raises like `all`."""
        if name not in self._due:
            return
        async with self._asking:
            model = self._due.get(name)
            if model is None:
                return
            wrong = await _verify(loop, model, self._source.models[name].golden)
            if wrong is not None:
                raise BadRelease(f"release {self._source.id}, model {name}: {wrong}")
            del self._due[name]


async def _verify(loop: Loop, model: ServedModel, golden: Golden | None) -> str | None:
    """What is wrong with a model; None if nothing is."""
    if golden is None:
        step = max(1, model.vocabulary // PROMPT_TOKENS)
        tokens = tuple(range(0, model.vocabulary, step))
    else:
        tokens = (*golden.prompt, *golden.tokens)
    if max(tokens) >= model.vocabulary:
        return f"its golden token {max(tokens)} is outside its vocabulary of {model.vocabulary}"
    tokens = tokens[: min(model.longest_prompt, model.context_length - 1)]
    top = 1 if golden is None else max(map(len, golden.top), default=1)
    forced, answered = await _answer(loop, _request(model, tokens, top))
    if len(forced) != len(tokens) or None in forced[1:]:
        return f"{len(tokens)} tokens gave {len(forced) - forced.count(None)} log-probabilities"
    found = [each for each in forced if each is not None]
    if not all(math.isfinite(each.logprob) for each in (*found, answered)):
        return "its log-probabilities are not finite"
    if not 0 <= answered.token < model.vocabulary:
        return f"it answers {answered.token}, outside its vocabulary of {model.vocabulary}"
    return None if golden is None else golden_difference(golden, found, loop.dtype)


def _request(model: ServedModel, tokens: tuple[int, ...], top: int) -> Request:
    return Request(
        id=f"verifying {model.release} {model.name}",
        release=model.release,
        model=model.name,
        prompt=tokens,
        max_tokens=1,
        sampling=Sampling(temperature=0, logprobs=1),
        prompt_logprobs=top,
        tenant=TENANT,
        chunk_tokens=CHUNK_TOKENS,
    )


async def _answer(loop: Loop, request: Request) -> tuple[Sequence[Logprob | None], Logprob]:
    """Log-probabilities of the prompt's tokens, and of the token after it."""
    events: asyncio.Queue[Event] = asyncio.Queue()
    here = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        here.call_soon_threadsafe(events.put_nowait, event)

    await outcome(loop.submit_all([request], tell))
    forced: Sequence[Logprob | None] = ()
    try:
        while True:
            match await events.get():
                case Failed(error=error):
                    raise error
                case PromptLogprobs(logprobs=logprobs):
                    forced = logprobs
                case Token(logprob=Logprob() as answered):
                    return forced, answered
    finally:
        loop.abort(request.id)


def golden_difference(golden: Golden, found: Sequence[Logprob], dtype: str) -> str | None:
    """How log-probabilities differ from golden logits; None if they are close enough.

    found: of the tokens after the first, of prompt and golden tokens together, as far as they were
    computed, in `dtype`. A logit is a log-probability plus a number that all of its row share, so
    differences of a row may have any middle.
    """
    tolerance = golden_tolerance(golden, dtype)
    rows = found[len(golden.prompt) - 1 :]
    for position, (row, top) in enumerate(zip(rows, golden.top, strict=False)):
        there = dict(row.top)
        least = min(there.values())  # what is not there is no likelier
        differences = [there.get(token, least) - logit for token, logit in top]
        worst = (max(differences) - min(differences)) / 2
        behind = max(there.values()) - row.logprob
        if not worst <= tolerance or not behind <= tolerance:
            return (
                f"golden token {position} ({row.token}): log-probabilities differ by "
                f"{plain(worst)}, and it is {plain(behind)} below the likeliest; "
                f"{plain(tolerance)} is allowed in {dtype}"
            )
    return None


def check_vocabularies(source: ReplicaSource, found: Mapping[str, TokenizerFacts]) -> None:
    """Raises BadRelease if a tokenizer has tokens that its model has not."""
    for name, (_, needed, _, _, _) in found.items():
        there = int(text_fields(source.models[name].config)["vocab_size"])
        if needed > there:
            raise BadRelease(
                f"release {source.id}, model {name}: its tokenizer has tokens up to "
                f"{needed - 1}, and its vocabulary ends at {there - 1}"
            )
