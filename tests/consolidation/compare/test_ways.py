from consolidation.arithmetic.frontier import Point
from consolidation.compare.groups import EXPERTS, Content
from consolidation.compare.ways import GroupWays, Node, Way, few_formats
from representation.formats import DENSE, Format, LowRank, Packed

ONE, TWO, FOUR, RANK = Packed(1, 16), Packed(2, 16), Packed(4, 16), LowRank(2)


def alone(member: int) -> tuple[Way, ...]:
    """A slot for one expert."""
    nothing = (Point(0, 0.0, tuple[Format, ...]()),)
    return (Way(Content(EXPERTS, (member,)), DENSE, 100, (member,), (nothing,)),)


def together(slot: Format, size: int, errors: dict[Format, tuple[int, float]]) -> Way:
    """A slot of expert 0 for both, of whom 1 may have a residual."""
    options = [Point(0, 50.0, tuple[Format, ...]())]
    options += [Point(num_bytes, error, (fmt,)) for fmt, (num_bytes, error) in errors.items()]
    first = (Point(0, 1.0, tuple[Format, ...]()),)
    return Way(Content(EXPERTS, (0,)), slot, size, (0, 1), (first, tuple(options)))


def group(*ways: Way) -> GroupWays:
    return GroupWays((Node(alone(0), None), Node(alone(1), None), Node(ways, (0, 1))))


BOTH = group(
    together(FOUR, 30, {ONE: (10, 20.0), TWO: (20, 4.0), RANK: (12, 15.0)}),
    together(TWO, 20, {ONE: (10, 24.0), TWO: (20, 8.0)}),
)


def test_a_frontier_within_formats_has_the_best_of_what_they_give() -> None:
    found = BOTH.frontier(frozenset({TWO, DENSE}))
    assert [(p.num_bytes, p.error) for p in found] == [(20, 51.0), (40, 9.0), (200, 0.0)]
    assert BOTH.frontier(frozenset({RANK})) == ()
    assert BOTH.frontier() == BOTH.frontier(frozenset({ONE, TWO, FOUR, RANK, DENSE}))
    only_slots = BOTH.frontier(frozenset({FOUR}))
    assert [(p.num_bytes, p.error) for p in only_slots] == [(30, 51.0)]


def test_few_formats_are_found_for_every_range_of_bytes() -> None:
    assert few_formats([BOTH, BOTH], 1) == [frozenset({TWO})]
    for limit in (1, 2, 3):
        for formats in few_formats([BOTH, BOTH], limit):
            assert 1 <= len(formats) <= limit
            assert BOTH.frontier(formats)
