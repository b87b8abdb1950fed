"""Carries out a step plan: one packed forward, then the next tokens. Decides nothing."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from serve_app.engine.packed import PackedModel
from serve_app.engine.request import Logprob, Request
from serve_app.engine.sampling import SamplingRow, logprobs_of, sample
from serve_app.engine.step import RopeSpan, SequenceGroup, Spans, StepView
from serve_app.scheduling.plan import Chunk, StepPlan


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
    """

    sampled: dict[str, int] = field(default_factory=dict)
    logprobs: dict[str, Logprob] = field(default_factory=dict)
    prompt_logprobs: dict[str, dict[int, Logprob]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Output:
    """One row of logits: which chunk's, at which position, and whether to sample from it."""

    chunk: Chunk
    position: int
    samples: bool


class Runner:
    """Turns plans into tokens."""

    def __init__(self, packed: PackedModel) -> None:
        self._packed = packed
        self._device = packed.device
        self._block_size = packed.sizes.block_size

    def execute(self, plan: StepPlan, running: Mapping[str, RunningRequest]) -> StepResult:
        """Run the plan's chunks in one forward and sample where they reach their last token."""
        rows = [running[chunk.sequence].row for chunk in plan.chunks]
        outputs = [output for chunk in plan.chunks for output in _outputs(chunk)]
        view = self.view(plan.chunks, rows, outputs)
        logits = self._packed.forward(view)
        return self._results(logits, outputs, running)

    def view(
        self, chunks: Sequence[Chunk], rows: Sequence[int], outputs: Sequence[_Output]
    ) -> StepView:
        """The step as the packed model's leaves see it. rows: map row of each chunk."""
        starts: list[int] = []
        places: list[int] = []
        token_rows: list[int] = []
        ids: list[int] = []
        positions: list[int] = []
        kv_index: list[int] = []
        for chunk, row in zip(chunks, rows, strict=True):
            starts.append(len(ids))
            ids += chunk.tokens
            places += [chunk.place] * len(chunk.tokens)
            token_rows += [row] * len(chunk.tokens)
            positions += range(chunk.start, chunk.end)
            kv_index += [self._kv_index(chunk, p) for p in range(chunk.start, chunk.end)]
        start_of = {chunk.sequence: s for chunk, s in zip(chunks, starts, strict=True)}
        wanted = [start_of[o.chunk.sequence] + o.position - o.chunk.start for o in outputs]
        num_places = self._packed.sizes.num_places
        tokens = Spans.of(places, token_rows, num_places, self._device)
        return StepView(
            tokens=tokens,
            outputs=Spans.of(
                [places[index] for index in wanted],
                [token_rows[index] for index in wanted],
                num_places,
                self._device,
            ),
            output_index=self._tensor(wanted),
            ids=self._tensor(ids),
            positions=self._tensor(positions),
            kv_index=self._tensor(kv_index),
            groups=self._groups(chunks, starts),
            ropes=tuple(
                span
                for chunk, start, row in zip(chunks, starts, rows, strict=True)
                for span in _rope_spans(chunk, start, row)
            ),
        )

    def _kv_index(self, chunk: Chunk, position: int) -> int:
        block, offset = divmod(position, self._block_size)
        return chunk.blocks[block] * self._block_size + offset

    def _groups(self, chunks: Sequence[Chunk], starts: Sequence[int]) -> tuple[SequenceGroup, ...]:
        """Single tokens attend together where their tables are of like length; others alone."""
        groups: dict[object, list[tuple[Chunk, int]]] = defaultdict(list)
        for chunk, start in zip(chunks, starts, strict=True):
            if len(chunk.tokens) == 1:
                groups[len(chunk.blocks).bit_length()].append((chunk, start))
            else:
                groups[chunk.sequence].append((chunk, start))
        return tuple(self._group(members) for members in groups.values())

    def _group(self, members: list[tuple[Chunk, int]]) -> SequenceGroup:
        longest = max(len(chunk.blocks) for chunk, _ in members)
        tables = [[*chunk.blocks, *[0] * (longest - len(chunk.blocks))] for chunk, _ in members]
        rows = [list(range(start, start + len(chunk.tokens))) for chunk, start in members]
        positions = [list(range(chunk.start, chunk.end)) for chunk, _ in members]
        return SequenceGroup(self._tensor(rows), self._tensor(tables), self._tensor(positions))

    def _results(
        self, logits: torch.Tensor, outputs: list[_Output], running: Mapping[str, RunningRequest]
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
        outputs: list[_Output],
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

    def _tensor(self, values: Sequence[int] | list[list[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)


def _outputs(chunk: Chunk) -> list[_Output]:
    """The rows of logits that a chunk wants, by position."""
    last = chunk.end - 1
    wanted: set[int] = set()
    if chunk.keep_prompt_logits:
        wanted.update(range(chunk.start, min(chunk.end, chunk.prompt_len - 1)))
    if chunk.samples:
        wanted.add(last)
    return [_Output(chunk, p, chunk.samples and p == last) for p in sorted(wanted)]


def _rope_spans(chunk: Chunk, start: int, row: int) -> list[RopeSpan]:
    """Of the tokens computed in one forward by `generate()`, and of each later one by itself."""
    together = max(0, min(chunk.end, chunk.forward_len) - chunk.start)
    spans = [RopeSpan(start, start + together, row, chunk.forward_len)] if together else []
    for offset in range(together, len(chunk.tokens)):
        at = start + offset
        spans.append(RopeSpan(at, at + 1, row, chunk.start + offset + 1))
    return spans


def _sampling_row(state: RunningRequest) -> SamplingRow:
    request = state.request
    generated = len(state.tokens) - len(request.prompt)
    banned = request.stop_token_ids if generated < request.min_tokens else frozenset()
    return SamplingRow(request.sampling, state.tokens, len(request.prompt), banned)
