from consolidation.arithmetic.frontier import Point
from consolidation.compare.costs import Formats
from consolidation.compare.groups import EXPERTS, Content
from consolidation.compare.part_form import PartForm, PartForms
from consolidation.compare.ways import GroupWays, Node, Options, Way, few_formats
from representation.formats import DENSE, Format, LowRank, Packed

ONE, TWO, FOUR, RANK = Packed(1, 16), Packed(2, 16), Packed(4, 16), LowRank(2)


class Fixed:
    """Bytes of parts, whatever the matrices."""

    def slot(self, forms: PartForms) -> int:
        return sum({DENSE: 100, FOUR: 30, TWO: 20}[one.format] for one in forms)

    def residual(self, form: PartForm) -> int:
        return {ONE: 10, TWO: 20, RANK: 12}[form.format]


def held(*points: Point[Formats]) -> Options:
    """What an expert of one matrix may have."""
    return Options((), {"down_proj": points})


def alone(member: int) -> tuple[Way, ...]:
    """A slot for one expert."""
    nothing = held(Point(0, 0.0, ()))
    return (Way(Content(EXPERTS, (member,)), (member,), {DENSE: (nothing,)}, Fixed()),)


def together(slot: Format, errors: dict[Format, tuple[int, float]]) -> Way:
    """A slot of expert 0 for both, of whom 1 may have a residual."""
    options: list[Point[Formats]] = [Point(0, 50.0, ())]
    options += [Point(num_bytes, error, (fmt,)) for fmt, (num_bytes, error) in errors.items()]
    first = held(Point(0, 1.0, ()))
    return Way(Content(EXPERTS, (0,)), (0, 1), {slot: (first, held(*options))}, Fixed())


def group(*ways: Way) -> GroupWays:
    return GroupWays((Node(alone(0), None), Node(alone(1), None), Node(ways, (0, 1))))


BOTH = group(
    together(FOUR, {ONE: (10, 20.0), TWO: (20, 4.0), RANK: (12, 15.0)}),
    together(TWO, {ONE: (10, 24.0), TWO: (20, 8.0)}),
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


def of_both(into: float, out: float) -> Options:
    """What an expert may have whose matrices are in error by so much, and take no residuals."""
    points = {"gate_up_proj": into, "down_proj": out}
    return Options((), {name: (Point(0, error, ()),) for name, error in points.items()})


class ByMatrix(Fixed):
    """Bytes of parts of two matrices that are as large as each other."""

    def slot(self, forms: PartForms) -> int:
        return sum(super(ByMatrix, self).slot((one,)) * (2 - len(one.matrices)) for one in forms)


SLOTS: dict[Format, tuple[Options, ...]] = {
    FOUR: (of_both(1.0, 2.0),),
    TWO: (of_both(8.0, 64.0),),
}
OF_BITS = GroupWays((Node((Way(Content(EXPERTS, (0,)), (0,), SLOTS, ByMatrix()),), None),))


def test_each_matrix_of_a_slot_chooses_its_format() -> None:
    found = OF_BITS.frontier()
    assert [p.error for p in found] == [72.0, 10.0, 3.0]
    labels = [[str(one) for one in p.choice[0].forms] for p in found]
    assert labels == [
        ["packed-2-16"],
        ["packed-2-16@gate_up_proj", "packed-4-16@down_proj"],
        ["packed-4-16"],
    ]
    assert [p.num_bytes for p in found] == [40, 50, 60]


def test_few_formats_count_those_of_every_part_of_a_slot() -> None:
    assert [p.error for p in OF_BITS.frontier(frozenset({FOUR}))] == [3.0]
    assert {frozenset({TWO}), frozenset({FOUR})} >= set(few_formats([OF_BITS], 1))
    assert frozenset({TWO, FOUR}) in few_formats([OF_BITS], 2)
