"""What sequences have in common from the start is computed once, and shared with nobody else."""

from typing import Any

import pytest

from serve_app.scheduling.prefixes import Prefixes
from serve_app.scheduling.sequence import Sequence
from tests.scheduling.fakes import World, alone, blocks_of
from tests.scheduling.test_scheduler import planned, resident

SYSTEM = [5, 3, 9, 1, 7, 7, 2, 8, 4]
"""Two blocks of four, and one token."""


def after_one(**options: Any) -> World:
    """A world in which a sequence that begins with SYSTEM has ended."""
    world = resident(World(secret=b"secret", **options), "a", "b")
    world.add([*SYSTEM, 6], max_tokens=2)
    world.run()
    return world


def computed(world: World, sequence: Sequence) -> int:
    """How many tokens of it the next step computes."""
    lengths = planned(world.begin_step())
    world.end_step()
    world.run()
    return lengths[sequence.id]


def test_full_blocks_of_the_same_tokens_are_not_computed_again() -> None:
    world = after_one()
    sequence = world.add([*SYSTEM, 0, 0], max_tokens=3)
    assert computed(world, sequence) == 3
    assert sequence.num_found == 8
    assert world.generated[sequence.id] == alone(sequence)[0]


def test_at_least_one_token_is_computed() -> None:
    world = after_one()
    sequence = world.add(SYSTEM[:8], max_tokens=3)
    assert computed(world, sequence) == 4
    assert sequence.num_found == 4


@pytest.mark.parametrize(
    "other",
    [
        {"model": "b"},
        {"tenant": "other"},
        {"release": "r2"},
        {"keep": True},
        {"by_length": True},
        {"recompute_at": 90},
    ],
)
def test_nothing_is_shared_across_models_tenants_and_releases_nor_where_it_differs(
    other: dict[str, Any],
) -> None:
    world = after_one()
    sequence = world.add(SYSTEM, max_tokens=3, **other)
    while sequence.place is None:
        world.step()
        world.finish_loads()
    assert not sequence.num_found
    world.run()
    assert sequence.num_found == (
        None if other.keys() & {"keep", "by_length", "recompute_at"} else 0
    )


@pytest.mark.parametrize("other", [{"by_length": True}, {"recompute_at": 90}])
def test_nothing_is_known_of_blocks_that_depend_on_more_than_tokens(other: dict[str, Any]) -> None:
    world = resident(World(secret=b"secret"), "a")
    world.add(SYSTEM, max_tokens=2, **other)
    world.run()
    sequence = world.add(SYSTEM, max_tokens=2)
    assert computed(world, sequence) == 9


def test_nothing_is_shared_without_a_secret() -> None:
    world = resident(World(), "a")
    for _ in range(2):
        sequence = world.add(SYSTEM, max_tokens=2)
        assert computed(world, sequence) == 9
    assert sequence.num_found is None


def test_those_that_run_together_share_blocks_and_the_last_gives_them_back() -> None:
    world = resident(World(secret=b"secret"), "a")
    first = world.add(SYSTEM, max_tokens=9)
    world.step()
    second = world.add(SYSTEM, max_tokens=2)
    world.step()
    assert blocks_of(first)[:2] == blocks_of(second)[:2]
    assert blocks_of(first)[2] != blocks_of(second)[2]
    world.abort(first.id)
    assert world.blocks.num_used == 3
    world.run()
    assert world.generated[second.id] == alone(second)[0]


def test_one_begins_where_others_have_most_of_its_blocks() -> None:
    world = resident(World(secret=b"secret", num_blocks=4), "a")
    first = world.add(SYSTEM, max_tokens=4)
    world.step()
    stranger = world.add(9, max_tokens=1, tenant="other")
    world.step()
    assert stranger.place is None
    world.abort(stranger.id)
    second = world.add(SYSTEM, max_tokens=1)
    world.step()
    assert second.id in world.reasons
    assert first.place is not None
    world.run()


def test_a_preempted_sequence_finds_its_blocks_again() -> None:
    world = resident(World(secret=b"secret", num_blocks=7, block_size=2), "a")
    early = world.add([1, 2, 3, 4, 5], max_tokens=7)
    late = world.add([6, 7, 8, 9, 10], max_tokens=6)
    while not late.num_preemptions:
        world.step()
    world.abort(early.id)
    lengths = planned(world.begin_step())
    assert late.num_found is not None
    assert late.num_found >= 4
    assert lengths == {late.id: len(late.tokens) - late.num_found}
    world.end_step()
    world.run()
    assert world.generated[late.id] == alone(late)[0]


def test_of_long_prompts_that_come_together_most_is_computed_once() -> None:
    world = resident(World(secret=b"secret", step_tokens=4), "a")
    together = [world.add(SYSTEM, max_tokens=2) for _ in range(3)]
    world.run()
    assert [sequence.num_found for sequence in together] == [0, 8, 8]


def test_what_a_step_under_way_computes_is_not_known_yet() -> None:
    world = resident(World(secret=b"secret", step_tokens=32), "a")
    world.add(SYSTEM, max_tokens=3)
    world.begin_step()
    early = world.add(SYSTEM, max_tokens=3)
    world.begin_ahead()
    assert early.num_found == 0
    world.end_step()
    late = world.add(SYSTEM, max_tokens=3)
    world.begin_ahead()
    assert late.num_found == 8
    world.run()


def test_what_is_computed_in_vain_is_never_known() -> None:
    world = resident(World(secret=b"secret", block_size=2), "a")
    stopped = world.add([1, 2, 3], max_tokens=9, stop=range(99))
    world.begin_step()
    world.begin_ahead()
    world.end_step()
    assert stopped.id in world.reasons
    after = world.add([1, 2, 3, world.generated[stopped.id][0], 5, 6], max_tokens=1)
    world.begin_ahead()
    assert after.num_found == 2
    world.run()


def test_a_retired_release_is_forgotten() -> None:
    world = after_one()
    world.scheduler.forget("r1")
    assert computed(world, world.add(SYSTEM, max_tokens=2)) == 9


def test_names_depend_on_the_secret_and_on_every_token_before() -> None:
    def names(secret: bytes, *prompt: int) -> list[bytes]:
        sequence = Sequence("s", ("r", "m"), "b", prompt, 1)
        return [digest for _, digest in Prefixes(secret, 2).keys(sequence, 2)]

    assert names(b"a", 1, 2, 3, 4) == names(b"a", 1, 2, 3, 4)
    assert not set(names(b"a", 1, 2, 3, 4)) & set(names(b"b", 1, 2, 3, 4))
    assert not set(names(b"a", 1, 2, 3, 4)) & set(names(b"a", 2, 1, 3, 4))
    assert names(b"a", 1, 2, 3, 4)[0] == names(b"a", 1, 2, 4, 3)[0]
    assert names(b"a", 1, 2, 3, 4)[1] != names(b"a", 1, 2, 4, 3)[1]
