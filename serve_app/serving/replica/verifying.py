"""Checks a release on the engine before anybody may ask it. Decides nothing about what follows.

Each model gets one request like any other, in the steps of those that run. Its golden prompt is
forced along its tokens, and the engine's log-probabilities are compared with the logits that the
release states. An encoder–decoder model answers the prompt, and is compared as far as its answer is
the golden one. A model without a golden prompt gets any tokens, and must answer with numbers.
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
    known = () if golden is None else (*golden.prompt, *golden.tokens)
    if max(known, default=0) >= model.vocabulary:
        return f"its golden token {max(known)} is outside its vocabulary of {model.vocabulary}"
    longest = min(model.longest_prompt, model.context_length - 1)
    if golden is not None and not model.goes_on and len(golden.prompt) > longest:
        golden = None  # an encoder that is given less of it answers something else
    request = _request(model, golden, longest)
    forced, answered = await _answer(loop, request)
    num_forced = 0 if request.prompt_logprobs is None else len(request.prompt)
    if len(forced) != num_forced or None in forced[1:]:
        return f"{num_forced} tokens gave {len(forced) - forced.count(None)} log-probabilities"
    found = [each for each in forced if each is not None]
    if not all(math.isfinite(each.logprob) for each in (*found, *answered)):
        return "its log-probabilities are not finite"
    for each in answered:
        if not 0 <= each.token < model.vocabulary:
            return f"it answers {each.token}, outside its vocabulary of {model.vocabulary}"
    if golden is None:
        return None
    rows = found[len(golden.prompt) - 1 :] if model.goes_on else answered
    return golden_difference(golden, rows, loop.dtype)


def _request(model: ServedModel, golden: Golden | None, longest: int) -> Request:
    """What a model is asked. longest: tokens of a prompt."""
    if golden is None:
        step = max(1, model.vocabulary // PROMPT_TOKENS)
        prompt, num_tokens, top = tuple(range(0, model.vocabulary, step)), 1, 1
    else:
        prompt, num_tokens = golden.prompt, len(golden.tokens)
        top = max(map(len, golden.top), default=1)
        if model.goes_on:
            prompt, num_tokens = (*prompt, *golden.tokens), 1
        num_tokens = max(1, min(num_tokens, model.context_length - len(prompt)))
    return Request(
        id=f"verifying {model.release} {model.name}",
        release=model.release,
        model=model.name,
        prompt=prompt[:longest],
        max_tokens=num_tokens,
        sampling=Sampling(temperature=0, logprobs=1 if model.goes_on else top),
        prompt_logprobs=top if model.goes_on else None,
        tenant=TENANT,
        chunk_tokens=CHUNK_TOKENS,
    )


async def _answer(
    loop: Loop, request: Request
) -> tuple[Sequence[Logprob | None], Sequence[Logprob]]:
    """Log-probabilities of the prompt's tokens, if they are asked for, and of the answer's."""
    events: asyncio.Queue[Event] = asyncio.Queue()
    here = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        here.call_soon_threadsafe(events.put_nowait, event)

    await outcome(loop.submit_all([request], tell))
    forced: Sequence[Logprob | None] = ()
    answered: list[Logprob] = []
    try:
        while True:
            match await events.get():
                case Failed(error=error):
                    raise error
                case PromptLogprobs(logprobs=logprobs):
                    forced = logprobs
                case Token(logprob=Logprob() as found, finish=finish):
                    answered.append(found)
                    if finish is not None:
                        return forced, answered
    finally:
        loop.abort(request.id)


def golden_difference(golden: Golden, rows: Sequence[Logprob], dtype: str) -> str | None:
    """How log-probabilities differ from golden logits; None if they are close enough.

    rows: of the golden tokens, as far as they were computed, in `dtype`; of a token that was
    chosen instead, which may be as likely, and then those after it are not looked at. A logit is a
    log-probability plus a number that all of its row share, so differences of a row may have any
    middle.
    """
    tolerance = golden_tolerance(golden, dtype)
    for position, row in enumerate(rows[: len(golden.top)]):
        wanted, top, there = golden.tokens[position], golden.top[position], dict(row.top)
        least = min(there.values())  # what is not there is no likelier
        differences = [there.get(token, least) - logit for token, logit in top]
        worst = (max(differences) - min(differences)) / 2
        own = row.logprob if row.token == wanted else there.get(wanted, least)
        behind = max(there.values()) - own
        if not worst <= tolerance or not behind <= tolerance:
            return (
                f"golden token {position} ({wanted}): log-probabilities differ by "
                f"{plain(worst)}, and it is {plain(behind)} below the likeliest; "
                f"{plain(tolerance)} is allowed in {dtype}"
            )
        if row.token != wanted:
            break
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
