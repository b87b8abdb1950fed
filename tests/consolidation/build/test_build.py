"""What is built is what was planned: formats, bytes, and errors as they were predicted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.arithmetic.metric import Metric, weight_metric
from consolidation.arithmetic.weights import Weights, weights_of
from consolidation.build.blobs import BuildTask, MemberRequest, Origin, SlotRequest, build_layer
from consolidation.checkpoints.checkpoint import ExpertsSource, open_checkpoint
from consolidation.checkpoints.contents import User
from consolidation.compare.costs import Difference
from consolidation.compare.menu import SLOT_FORMATS, FileSizes, Pair
from consolidation.compare.noise import (
    GROUP,
    RESIDUAL_BITS,
    Unit,
    measure_noise,
    powers_of,
    unit_of,
)
from consolidation.compare.part_form import AS_IT_IS, PartForm, PartForms
from consolidation.compare.rank_cost import BOTH_BITS, BOTH_RANKS, RANKS
from consolidation.compare.ways import Options
from consolidation.errors import RunFailed
from consolidation.release import Part, Registry
from consolidation.release.tensors import encode_tensors
from representation.formats import DENSE, ExpertShape, Format, LowRank, Packed, dense_expert
from tests.consolidation.choices import whole
from tests.consolidation.families import tune
from tests.support.checkpoints import write_checkpoint

SIZE: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 1}
IN, OUT = "gate_up_proj", "down_proj"
MIXES: list[PartForms] = [
    (),
    *(whole(Packed(bits, GROUP)) for bits in RESIDUAL_BITS[::3]),
    *(whole(LowRank(rank)) for rank in RANKS[1::3]),
    *(whole(LowRank(r), Packed(b, GROUP)) for r in BOTH_RANKS[:1] for b in BOTH_BITS[::3]),
    (PartForm(LowRank(1), (OUT,)),),
    (PartForm(Packed(1, GROUP), (IN,)), PartForm(Packed(4, GROUP), (OUT,))),
    (PartForm(LowRank(4), (OUT,)), PartForm(Packed(2, GROUP))),
]


@dataclass(frozen=True)
class Two:
    """A base's experts and those of a model tuned from it, on disk; and a registry."""

    base: ExpertsSource
    tuned: ExpertsSource
    registry: Registry

    def unit(self, source: ExpertsSource) -> Unit:
        weights = weights_of(source.read(0), source.shape)
        metrics = {n: weight_metric(source.shape.matrix(n)) for n in source.shape.matrices}
        return unit_of(weights, metrics)

    def build(
        self, slot: PartForms, *mixes: PartForms, digest: str | None = None
    ) -> list[list[Part]]:
        """Parts of the tuned expert, those of the slot first, for residuals of each mix."""
        origin, own = Origin(self.base, 0), Origin(self.tuned, 0)
        members = tuple(MemberRequest(own, (User("m", 0, 1.0),), mix) for mix in mixes)
        request = SlotRequest(
            holds=((origin, 1),), forms=slot, members=members, digest=digest, num_bytes=0
        )
        task = BuildTask(
            registry=self.registry.url,
            family="fam",
            layer=0,
            shape=self.base.shape,
            dtype=torch.bfloat16,
            statistics=None,
            slots=(request,),
        )
        (found,) = build_layer(task)
        first = [Part.model_validate(part) for part in found["slot"]]
        return [
            [*first, *(Part.model_validate(part) for part in residuals)]
            for residuals in found["residuals"]
        ]

    def given(self, parts: list[Part]) -> dict[str, torch.Tensor]:
        read = [(part.parsed, self.registry.read_tensors(part)) for part in parts]
        return dense_expert(read, self.base.shape)


def pair_of(unit: Unit, content: Weights, *, is_stored: bool = True) -> Pair:
    return Pair(
        Difference.between(unit, content, is_stored=is_stored, factors={}), powers_of(content)
    )


def metrics_of(unit: Unit) -> dict[str, Metric]:
    return {name: sketcher.metric for name, sketcher in unit.sketchers.items()}


def cost(unit: Unit, given: dict[str, torch.Tensor], shape: ExpertShape) -> float:
    """What it costs that these weights stand for the unit's."""
    error = weights_of(given, shape).minus(unit.weights)
    return sum(
        sketcher.metric.cost(error.matrices[name]) + unit.vector_cost(name, error)
        for name, sketcher in unit.sketchers.items()
    )


@pytest.fixture(scope="module", params=["mixtral", "gpt_oss"])
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Two:
    root: Path = tmp_path_factory.mktemp("two")
    fields = SIZE | ({"layer_types": ["full_attention"]} if request.param == "gpt_oss" else {})
    base = write_checkpoint(root / "b", request.param, dtype=torch.bfloat16, **fields)
    tuned = tune(base, root / "m", 1, experts=0.02)
    (one,), (other,) = (open_checkpoint(path).experts for path in (base, tuned))
    return Two(one, other, Registry(str(root / "r"), "fam"))


@pytest.mark.parametrize("slot", SLOT_FORMATS, ids=str)
def test_every_mix_of_formats_comes_back_within_what_was_predicted(two: Two, slot: Format) -> None:
    unit, shape = two.unit(two.tuned), two.base.shape
    pair = pair_of(unit, two.unit(two.base).weights)
    sizes = FileSizes(shape, torch.bfloat16)
    noise = measure_noise([unit])
    options = pair.options(slot, noise, sizes)
    built = two.build(whole(slot), *MIXES)
    for mix, parts in zip(MIXES, built, strict=True):
        assert [part.parsed for part in parts] == [slot, *(one.format for one in mix)]
        assert [part.matrices for part in parts[1:]] == [one.matrices for one in mix]
        assert parts[0].bytes == sizes.slot(whole(slot))
        assert [part.bytes for part in parts[1:]] == [sizes.residual(one) for one in mix]
        for number, part in enumerate(parts):
            own = shape.only(part.matrices)
            specs = part.parsed.tensor_specs(own, torch.bfloat16, residual=number > 0)
            tensors = two.registry.read_tensors(part)
            assert {n: (tuple(t.shape), t.dtype) for n, t in tensors.items()} == specs
        predicted = _predicted(options, mix)
        if predicted is not None:
            error = cost(unit, two.given(parts), shape)
            assert predicted / 2.5 < error < predicted * 2.5, (slot, mix, error, predicted)


def _predicted(options: Options, mix: PartForms) -> float | None:
    """The error that is expected of residuals; None if a matrix is not offered them."""
    found = 0.0
    for name, points in options.apart.items():
        own = tuple(one.format for one in mix if one.holds(name))
        errors = [point.error for point in points if point.choice == own]
        if not errors:
            return None
        found += errors[0]
    return found


def test_what_matrices_have_in_one_format_is_one_residual(two: Two) -> None:
    pair = pair_of(two.unit(two.tuned), two.unit(two.base).weights)
    sizes = FileSizes(two.base.shape, torch.bfloat16)
    options = pair.options(DENSE, measure_noise([two.unit(two.tuned)]), sizes)
    found = options.of_all(None, sizes)
    assert {len({one.format for one in p.choice}) - len(p.choice) for p in found} == {0}
    assert any(one.matrices == () for p in found for one in p.choice)
    assert any(one.matrices == (OUT,) for p in found for one in p.choice)
    for point in found:
        assert point.num_bytes == sum(map(sizes.residual, point.choice))
        assert point.error == pytest.approx(_predicted(options, point.choice))


def test_biases_are_made_up_for_by_the_first_residual(two: Two) -> None:
    wanted = two.tuned.read(0)
    for mix in MIXES[1::3]:
        (parts,) = two.build(whole(Packed(4, GROUP)), mix)
        given = two.given(parts)
        for name in two.base.shape.vectors:
            if any(one.holds(name.removesuffix("_bias")) for one in mix):
                assert torch.allclose(given[name], wanted[name].float(), rtol=1e-6)
            else:
                assert torch.equal(given[name], two.base.read(0)[name].float())


def test_of_two_orders_the_better_is_built(two: Two) -> None:
    unit, shape = two.unit(two.tuned), two.base.shape
    alone, both = two.build(
        whole(Packed(3, GROUP)), whole(Packed(2, GROUP)), whole(LowRank(8), Packed(2, GROUP))
    )
    costs = [cost(unit, two.given(parts), shape) for parts in (alone, both)]
    assert costs[1] < costs[0]


def test_what_is_equal_needs_nothing_and_what_is_locked_takes_nothing_else(two: Two) -> None:
    unit, sizes = two.unit(two.base), FileSizes(two.base.shape, torch.bfloat16)
    noise = measure_noise([unit])
    same = pair_of(unit, unit.weights)
    (point,) = same.options(DENSE, noise, sizes).of_all(None, sizes)
    assert (point.num_bytes, point.error, point.choice) == (0, 0.0, ())
    assert all(
        not any(f.kind == "rank" for f in p.choice)
        for points in same.options(Packed(4, GROUP), noise, sizes).apart.values()
        for p in points
    )
    locked = unit_of(unit.weights, metrics_of(unit), locked=True)
    own = pair_of(locked, unit.weights)
    assert own.options(DENSE, noise, sizes).of_all(None, sizes)[0].error == 0
    assert own.options(Packed(8, GROUP), noise, sizes).of_all(None, sizes) == ()
    other = pair_of(locked, two.unit(two.tuned).weights, is_stored=False)
    assert other.options(DENSE, noise, sizes).of_all(None, sizes) == ()


def test_ranks_are_below_those_of_the_matrices(tmp_path: Path) -> None:
    (source,) = open_checkpoint(
        write_checkpoint(tmp_path / "b", "mixtral", num_hidden_layers=1)
    ).experts
    metrics = {n: weight_metric(source.shape.matrix(n)) for n in source.shape.matrices}
    one, other = (unit_of(weights_of(source.read(i), source.shape), metrics) for i in (0, 1))
    options = pair_of(one, other.weights).options(
        DENSE, measure_noise([one]), FileSizes(source.shape, torch.float32)
    )
    points = [point for found in options.apart.values() for point in found]
    ranks = [f.rank for point in points for f in point.choice if isinstance(f, LowRank)]
    assert max(ranks, default=0) < 24


def test_noise_is_tried_on_an_expert_that_has_weights(two: Two) -> None:
    unit = two.unit(two.base)
    nothing = unit_of(unit.weights.minus(unit.weights), metrics_of(unit))
    assert measure_noise([nothing, unit]) == measure_noise([unit])
    assert set(measure_noise([nothing]).factors.values()) == {0.0}


def test_a_slot_that_is_known_is_not_written_twice_and_must_be_what_it_was(two: Two) -> None:
    data = encode_tensors(two.base.read(0))
    blob = two.registry.write_blob(data)
    origin = Origin(two.base, 0)
    task = BuildTask(
        two.registry.url,
        "fam",
        0,
        two.base.shape,
        torch.bfloat16,
        None,
        (SlotRequest(((origin, 1),), AS_IT_IS, (), blob.digest, blob.bytes),),
    )
    (found,) = build_layer(task)
    assert found == {
        "slot": [Part(digest=blob.digest, bytes=blob.bytes).model_dump()],
        "residuals": [],
    }
    wrong = SlotRequest(((origin, 1),), AS_IT_IS, (), "0" * 64, blob.bytes)
    other = BuildTask(two.registry.url, "fam", 0, two.base.shape, torch.bfloat16, None, (wrong,))
    with pytest.raises(RunFailed, match="expert 0: the checkpoint has changed"):
        build_layer(other)
