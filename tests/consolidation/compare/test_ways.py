from consolidation.arithmetic.frontier import Point
from consolidation.compare.costs import Formats
from consolidation.compare.groups import EXPERTS, Content
from consolidation.compare.residual import Residual
from consolidation.compare.ways import GroupWays, Node, Options, Way, few_formats
from representation.formats import DENSE, Format, LowRank, Packed

ONE, TWO, FOUR, RANK = Packed(1, 16), Packed(2, 16), Packed(4, 16), LowRank(2)


def fixed(one: Residual) -> int:
    """Bytes of a residual."""
    return {ONE: 10, TWO: 20, RANK: 12}[one.format]


def held(*points: Point[Formats]) -> Options:
    """What an expert of one matrix may have."""
    return Options((), {"down_proj": points}, fixed)


def alone(member: int) -> tuple[Way, ...]:
    """A slot for one expert."""
    return (Way(Content(EXPERTS, (member,)), DENSE, 100, (member,), (held(Point(0, 0.0, ())),)),)


def together(slot: Format, size: int, errors: dict[Format, tuple[int, float]]) -> Way:
    """A slot of expert 0 for both, of whom 1 may have a residual."""
    options: list[Point[Formats]] = [Point(0, 50.0, ())]
    options += [Point(num_bytes, error, (fmt,)) for fmt, (num_bytes, error) in errors.items()]
    first = held(Point(0, 1.0, ()))
    return Way(Content(EXPERTS, (0,)), slot, size, (0, 1), (first, held(*options)))


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
