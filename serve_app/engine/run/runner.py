"""Carries out step plans: one packed forward pass, then the next tokens. Decides nothing.

A step is launched, and collected when its results are needed. Meanwhile the next may be launched:
steps run in the order in which they were launched, and a token that one samples goes into the next
without the host seeing it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from serve_app.engine.counters import RunSeconds
from serve_app.engine.device.native.library import native
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Logprob, Request
from serve_app.engine.run.captures import DecodeGraphs
from serve_app.engine.run.sampling import SamplingRow, Scores, is_plain, sample, score
from serve_app.engine.run.step_masks import Masks, StepMasks
from serve_app.engine.step.transfer import HostCopies, to_device
from serve_app.engine.step.view import Outputs, ViewBuilder, outputs_of
from serve_app.grammar.following import Following
from serve_app.scheduling.plan import Chunk, StepPlan

NOTHING_FOLLOWED: Mapping[str, Following] = {}


@dataclass(slots=True)
class RunningRequest:
    """What the runner must know about a sequence besides its chunk.

    row: of its model in the expert maps.   tokens: all known tokens, prompt first; grows.
    prompt_len, num_inputs: how many of them are the prompt, and the input of an encoder.
    usual: how it samples a token that may be any, while the host knows the one before.
    is_scored: whether any log-probability is requested.
    """

    request: Request
    row: int
    tokens: Sequence[int]
    prompt_len: int
    num_inputs: int
    usual: SamplingRow = field(init=False)
    is_scored: bool = field(init=False)

    def __post_init__(self) -> None:
        settings = self.request.sampling
        self.usual = SamplingRow(
            settings,
            self.tokens,
            self.prompt_len,
            frozenset(),
            num_inputs=self.num_inputs,
            is_plain=is_plain(settings),
        )
        self.is_scored = (self.request.prompt_logprobs, settings.logprobs) != (None, None)


@dataclass(slots=True)
class StepResult:
    """What a step computed, by sequence.

    sampled: the next token.   logprobs: of that token, if requested.
    prompt_logprobs: position -> of the prompt token there, if requested.
    seconds: what running the step took.
    """

    sampled: dict[str, int] = field(default_factory=dict)
    logprobs: dict[str, Logprob] = field(default_factory=dict)
    prompt_logprobs: dict[str, dict[int, Logprob]] = field(default_factory=dict)
    seconds: RunSeconds = field(default_factory=RunSeconds)


@dataclass(frozen=True, slots=True)
class _Scored:
    """A row of logits for which log-probabilities are requested.

    row: of the logits.   position: in the sequence.   token: that follows; None: the one that is
    sampled.   top: how many of the likeliest.
    """

    row: int
    sequence: str
    position: int
    token: int | None
    top: int


class LaunchedStep:
    """A step that the device is running or has run.

    tokens: (m,) int64 on the device, what was sampled.   rows: sequence -> its row of them.
    seconds: what launching it took.
    """

    def __init__(
        self,
        tokens: torch.Tensor,
        rows: Mapping[str, int],
        scored: Sequence[_Scored],
        scores: Scores | None,
        clock: Callable[[], float],
    ) -> None:
        self.tokens = tokens
        self.rows = rows
        self.seconds = RunSeconds()
        self._clock = clock
        self._scored = scored
        self._copies = HostCopies([tokens, *(scores.tensors if scores is not None else ())])

    def sampled(self) -> dict[str, int]:
        """Wait for the tokens of the step."""
        return dict(zip(self.rows, self._copies.wait()[0].tolist(), strict=True))

    def collect(self) -> StepResult:
        """Wait for the results of the step."""
        began = self._clock()
        tokens, *scores = self._copies.wait()
        seconds = replace(self.seconds, waiting=self._clock() - began)
        result = StepResult(dict(zip(self.rows, tokens.tolist(), strict=True)), seconds=seconds)
        if not scores:
            return result
        found = Scores(*scores).logprobs([scored.top for scored in self._scored])
        for scored, logprob in zip(self._scored, found, strict=True):
            if scored.token is None:
                result.logprobs[scored.sequence] = logprob
            else:
                by_position = result.prompt_logprobs.setdefault(scored.sequence, {})
                by_position[scored.position + 1] = logprob
        return result


class StepsApart:
    """Steps of one sequence each, which stand for one of all of them; see `LaunchedStep`."""

    def __init__(self, steps: Sequence[LaunchedStep], tokens: torch.Tensor) -> None:
        """tokens: (m,) int64, what the steps sampled, in order."""
        self.tokens = tokens
        self.rows = {name: row for row, name in enumerate(n for each in steps for n in each.rows)}
        self._steps = steps

    def sampled(self) -> dict[str, int]:
        """Wait for the tokens of all of them."""
        return {name: token for step in self._steps for name, token in step.sampled().items()}

    def collect(self) -> StepResult:
        """Wait for the results of all of them."""
        result = StepResult()
        for found in [step.collect() for step in self._steps]:
            result.sampled |= found.sampled
            result.logprobs |= found.logprobs
            result.prompt_logprobs |= found.prompt_logprobs
        return result


class Runner:
    """Turns plans into tokens."""

    def __init__(
        self,
        packed: PackedModel,
        *,
        graphs: DecodeGraphs | None = None,
        clock: Callable[[], float],
    ) -> None:
        """graphs: run the steps that they can run."""
        self.keeps_state = bool(packed.states.layers)
        """Whether a step changes what it cannot compute again from tokens and blocks alone."""
        self._packed = packed
        self._model: PackedModel | DecodeGraphs = packed if graphs is None else graphs
        self._clock = clock
        self._device = packed.device
        self._masks = StepMasks(packed.device)
        code = native() if packed.device.type == "cpu" else None
        self._code = None if code is None else Rows(code)
        sizes = packed.sizes
        self._views = ViewBuilder(
            sizes.num_places,
            sizes.block_size,
            packed.device,
            groups=any(form.takes_groups for form in packed.attention_forms),
            paging=graphs is not None or any(form.takes_paging for form in packed.attention_forms),
            states=bool(packed.states.layers),
            inputs=packed.has_encoder,
        )

    @torch.inference_mode()
    def launch(
        self,
        plan: StepPlan,
        running: Sequence[RunningRequest],
        after: LaunchedStep | StepsApart | None = None,
        followed: Mapping[str, Following] = NOTHING_FOLLOWED,
    ) -> LaunchedStep:
        """Start a forward pass over the plan's chunks; sample where they reach their last token.

        running: of each chunk.   after: the step before, from which pending chunks take their
        token.   followed: by sequence, where its answer is in its grammar, if it has one. Masks are
        computed beside the forward pass; if one needs a token of the step before, that is waited
        for, but the pass is not. On the CPU the step is done when this returns; on CUDA the device
        may have hardly begun.
        """
        began = self._clock()
        outputs = outputs_of(plan.chunks)
        view = self._views.build(plan.chunks, [state.row for state in running], outputs)
        self._packed.states.begin(view)
        self._fill_pending(view.ids, plan.chunks, after)
        making = self._masks.begin(plan.chunks, followed) if followed else None
        ready = self._clock()
        logits = self._model.forward(view)
        done = self._clock()
        masks = None if making is None else making.masks(after)
        launched = self._sample(logits, plan.chunks, outputs, running, after, masks)
        launched.seconds = RunSeconds(ready - began, done - ready, self._clock() - done)
        return launched

    def launch_apart(
        self,
        plan: StepPlan,
        running: Sequence[RunningRequest],
        after: LaunchedStep | StepsApart | None,
        followed: Mapping[str, Following] = NOTHING_FOLLOWED,
    ) -> tuple[StepsApart, dict[str, Exception]]:
        """Start a step for each chunk, to find out with which of them the whole one broke.

        -> the steps that work, and what breaks the others, by sequence
        """
        steps: list[LaunchedStep] = []
        broken: dict[str, Exception] = {}
        for chunk, state in zip(plan.chunks, running, strict=True):
            try:
                steps.append(self.launch(StepPlan((chunk,)), [state], after, followed))
            except Exception as error:  # noqa: BLE001 - others must go on
                broken[chunk.sequence] = error
        nothing = torch.empty(0, dtype=torch.int64, device=self._device)
        return StepsApart(steps, torch.cat([nothing, *(step.tokens for step in steps)])), broken

    def _sample(
        self,
        logits: torch.Tensor,
        chunks: Sequence[Chunk],
        outputs: Outputs,
        running: Sequence[RunningRequest],
        after: LaunchedStep | StepsApart | None,
        masks: Masks | None,
    ) -> LaunchedStep:
        """logits: (n, V), a row for each output"""
        sampling = [row for row, samples in enumerate(outputs.samples) if samples]
        both = [
            (chunk, state) for chunk, state in zip(chunks, running, strict=True) if chunk.samples
        ]
        states = [_sampling_row(chunk, state, after) for chunk, state in both]
        if masks is not None:
            states = [
                masks.row(chunk.sequence, state)
                for (chunk, _), state in zip(both, states, strict=True)
            ]
        chosen = logits if len(sampling) == len(outputs) else logits[self._tensor(sampling)]
        before = None if after is None else after.tokens
        words = None if masks is None else masks.words
        tokens = sample(chosen, states, before, self._code, words)
        row_of = {chunk.sequence: row for row, (chunk, _) in enumerate(both)}
        scored = list(_scored(outputs, running))
        scores = self._scores(logits, scored, tokens, row_of)
        return LaunchedStep(tokens, row_of, scored, scores, self._clock)

    def _fill_pending(
        self, ids: torch.Tensor, chunks: Sequence[Chunk], after: LaunchedStep | StepsApart | None
    ) -> None:
        """Fill in the tokens that the step before samples.   ids: (T,), of decoders alone"""
        if not any(chunk.pending for chunk in chunks):
            return
        targets, sources, start = [], [], 0
        for chunk in chunks:
            if chunk.pending:
                assert after is not None, f"{chunk.sequence} waits for a step that is not known"
                targets.append(start)
                sources.append(after.rows[chunk.sequence])
            start += chunk.num_decoded
        if after is not None:
            ids[self._tensor(targets)] = after.tokens[self._tensor(sources)]

    def _scores(
        self,
        logits: torch.Tensor,
        scored: Sequence[_Scored],
        sampled: torch.Tensor,
        row_of: Mapping[str, int],
    ) -> Scores | None:
        """logits: (n, V), a row for each output   sampled: (m,)"""
        if not scored:
            return None
        tokens = self._tensor([s.token or 0 for s in scored])
        own = [index for index, s in enumerate(scored) if s.token is None]
        rows = [row_of[scored[index].sequence] for index in own]
        tokens[self._tensor(own)] = sampled[self._tensor(rows)]
        wanted = logits[self._tensor([s.row for s in scored])]
        return score(wanted, tokens, max(s.top for s in scored))

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return to_device(values, torch.int64, self._device)


def _scored(outputs: Outputs, running: Sequence[RunningRequest]) -> Iterator[_Scored]:
    """The requested log-probabilities of prompts and of sampled tokens."""
    if not any(state.is_scored for state in running):
        return
    each = zip(outputs.chunks, outputs.positions, outputs.samples, strict=True)
    for row, (chunk, position, samples) in enumerate(each):
        request = running[chunk].request
        if request.prompt_logprobs is not None and position + 1 < len(request.prompt):
            token = request.prompt[position + 1]
            yield _Scored(row, request.id, position, token, request.prompt_logprobs)
        if request.sampling.logprobs is not None and samples:
            yield _Scored(row, request.id, position, None, request.sampling.logprobs)


def _sampling_row(
    chunk: Chunk, state: RunningRequest, after: LaunchedStep | StepsApart | None
) -> SamplingRow:
    is_early = chunk.num_generated < state.request.min_tokens
    if not is_early and not chunk.pending:
        return state.usual
    return state.usual._replace(
        banned=state.request.stop_token_ids if is_early else frozenset(),
        is_plain=state.usual.is_plain and not is_early,
        pending=after.rows[chunk.sequence] if chunk.pending and after is not None else None,
    )
