"""Carries out a step plan: one packed forward, then the next tokens. Decides nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from serve_app.engine.packed import PackedModel
from serve_app.engine.request import Logprob, Request
from serve_app.engine.sampling import SamplingRow, logprobs_of, sample
from serve_app.engine.view import Output, ViewBuilder, outputs_of
from serve_app.scheduling.plan import StepPlan


@dataclass(frozen=True, slots=True)
class RunningRequest:
    """What the runner must know of a sequence beside its chunk.

    row: of its model in the expert maps.   tokens: all that are known, prompt first.
    """

    request: Request
    row: int
    tokens: Sequence[int]


@dataclass(slots=True)
class StepResult:
    """What a step computed, by sequence.

    sampled: the next token.   logprobs: of that token, where asked for.
    prompt_logprobs: position -> of the prompt token there, where asked for.
    forward_s: seconds in the packed forward; on CUDA, until it was launched.
    """

    sampled: dict[str, int] = field(default_factory=dict)
    logprobs: dict[str, Logprob] = field(default_factory=dict)
    prompt_logprobs: dict[str, dict[int, Logprob]] = field(default_factory=dict)
    forward_s: float = 0.0


class Runner:
    """Turns plans into tokens."""

    def __init__(self, packed: PackedModel, *, clock: Callable[[], float]) -> None:
        self._packed = packed
        self._clock = clock
        self._device = packed.device
        sizes = packed.sizes
        self._views = ViewBuilder(sizes.num_places, sizes.block_size, packed.device)

    def execute(self, plan: StepPlan, running: Mapping[str, RunningRequest]) -> StepResult:
        """Run the plan's chunks in one forward and sample where they reach their last token."""
        rows = [running[chunk.sequence].row for chunk in plan.chunks]
        outputs = [output for chunk in plan.chunks for output in outputs_of(chunk)]
        view = self._views.build(plan.chunks, rows, outputs)
        began = self._clock()
        logits = self._packed.forward(view)
        forward_s = self._clock() - began
        result = self._results(logits, outputs, running)
        result.forward_s = forward_s
        return result

    def _results(
        self, logits: torch.Tensor, outputs: list[Output], running: Mapping[str, RunningRequest]
    ) -> StepResult:
        """logits: (n, V), a row for each output"""
        result = StepResult()
        sampling = [index for index, output in enumerate(outputs) if output.samples]
        states = [running[outputs[index].chunk.sequence] for index in sampling]
        if sampling:
            chosen = sample(logits[self._tensor(sampling)], [_sampling_row(s) for s in states])
            for index, token in zip(sampling, chosen, strict=True):
                result.sampled[outputs[index].chunk.sequence] = token
        wanted: list[tuple[int, int, int, bool]] = []  # row, token, how many others, is prompt
        for index, output in enumerate(outputs):
            state = running[output.chunk.sequence]
            request = state.request
            following = output.position + 1
            if request.prompt_logprobs is not None and following < len(request.prompt):
                wanted.append((index, state.tokens[following], request.prompt_logprobs, True))
            if output.samples and request.sampling.logprobs is not None:
                token = result.sampled[output.chunk.sequence]
                wanted.append((index, token, request.sampling.logprobs, False))
        if wanted:
            self._note_logprobs(logits, outputs, wanted, result)
        return result

    def _note_logprobs(
        self,
        logits: torch.Tensor,
        outputs: list[Output],
        wanted: list[tuple[int, int, int, bool]],
        result: StepResult,
    ) -> None:
        rows = self._tensor([row for row, *_ in wanted])
        found = logprobs_of(logits[rows], [w[1] for w in wanted], [w[2] for w in wanted])
        for (row, _, _, is_prompt), logprob in zip(wanted, found, strict=True):
            sequence = outputs[row].chunk.sequence
            if is_prompt:
                by_position = result.prompt_logprobs.setdefault(sequence, {})
                by_position[outputs[row].position + 1] = logprob
            else:
                result.logprobs[sequence] = logprob

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)


def _sampling_row(state: RunningRequest) -> SamplingRow:
    request = state.request
    generated = len(state.tokens) - len(request.prompt)
    banned = request.stop_token_ids if generated < request.min_tokens else frozenset()
    return SamplingRow(request.sampling, state.tokens, len(request.prompt), banned)
