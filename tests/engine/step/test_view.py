"""The tensors that describe a step say what its chunks say."""

import torch

from serve_app.engine.step.view import ViewBuilder, outputs_of
from serve_app.scheduling.ledgers.blocks import BLOCKS
from serve_app.scheduling.plan import Chunk

SIZE = 4
"""Tokens in a block."""


def chunk(
    name: str,
    tokens: tuple[int, ...],
    blocks: tuple[int, ...],
    *,
    start: int = 0,
    place: int = 0,
    samples: bool = True,
    prompt_logits: bool = False,
) -> Chunk:
    return Chunk(
        sequence=name,
        model=("r", "m"),
        place=place,
        start=start,
        tokens=tokens,
        pending=False,
        held={BLOCKS: blocks},
        prompt_len=start + len(tokens),
        forward_len=start + len(tokens),
        samples=samples,
        keep_prompt_logits=prompt_logits,
        num_generated=0,
        by_length=False,
    )


def builder() -> ViewBuilder:
    return ViewBuilder(3, SIZE, torch.device("cpu"), groups=False, paging=True)


def test_tokens_have_the_positions_places_and_blocks_of_their_chunks() -> None:
    chunks = [
        chunk("a", (5, 6, 7), (8, 2), start=3, samples=False),
        chunk("b", (9,), (1,), start=2, place=2),
    ]
    view = builder().build(chunks, [4, 6], outputs_of(chunks))
    assert view.ids.tolist() == [5, 6, 7, 9]
    assert view.positions.tolist() == [3, 4, 5, 2]
    assert view.kv_index.tolist() == [8 * SIZE + 3, 2 * SIZE, 2 * SIZE + 1, SIZE + 2]
    assert view.tokens.places.tolist() == [0, 0, 0, 2]
    assert view.tokens.rows.tolist() == [4, 4, 4, 6]
    assert view.tokens.ends.tolist() == [3, 3, 4]
    assert [(s.place, s.start, s.end, s.models) for s in view.tokens.segments] == [
        (0, 0, 3, frozenset({4})),
        (2, 3, 4, frozenset({6})),
    ]
    assert view.output_index.tolist() == [3]
    assert view.outputs.ends.tolist() == [0, 0, 1]


def test_logits_are_wanted_of_prompts_and_of_what_is_sampled_after() -> None:
    chunks = [
        chunk("a", (5, 6, 7), (0,), prompt_logits=True),
        chunk("b", (1, 2), (1,), samples=False),
        chunk("c", (3,), (2,)),
    ]
    outputs = outputs_of(chunks)
    assert list(zip(outputs.chunks, outputs.positions, outputs.samples, strict=True)) == [
        (0, 0, False),
        (0, 1, False),
        (0, 2, True),
        (2, 0, True),
    ]
    view = builder().build(chunks, [0, 0, 0], outputs)
    assert view.output_index.tolist() == [0, 1, 2, 5]


def test_tables_are_those_of_the_chunks_whatever_the_step_before_had() -> None:
    one: tuple[int, ...] = (3, 4)
    two: tuple[int, ...] = (5,)
    views = builder()
    steps: list[list[tuple[str, tuple[int, ...]]]] = [
        [("a", one), ("b", two)],
        [("a", one), ("b", (5, 6))],
        [("a", one), ("b", (5, 6, 7))],
        [("c", (9,)), ("b", (5, 6, 7))],
        [("b", (5, 6, 7))],
        [("c", two), ("b", (1,)), ("a", one)],
    ]
    for step in steps:
        chunks = [chunk(name, (1,), blocks) for name, blocks in step]
        paging = views.build(chunks, [0] * len(chunks), outputs_of(chunks)).paging
        assert paging is not None
        for (_, blocks), row in zip(step, paging.tables.tolist(), strict=True):
            assert row[: len(blocks)] == list(blocks)
            assert not any(row[len(blocks) :])
