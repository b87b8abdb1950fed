"""Backbones come onto the device in the order in which a step wants them, beside other steps."""

import pytest

from serve_app.engine.leaves import Stacks
from tests.engine.running import answer, engine_of, greedy_requests
from tests.support.checkpoints import ARCHITECTURES, tiny_model
from tests.support.sources import MemorySource


def block(tensor: str) -> str:
    """A layer's norm, attention or MLP; or what is not of a layer."""
    return ".".join(tensor.split(".")[:-1][:4])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_are_copied_in_the_order_in_which_a_step_asks_for_them(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within attention or an MLP in another order, where layers that are computed as one are not
    neighbours; so what a step waits for is never behind a part that it does not come to yet.
    """
    models = {"m1": tiny_model(architecture, 1)}
    engine = engine_of(MemorySource("r1", models))
    stacks, ready = engine.packed.stacks, Stacks.ready
    copied, asked = list(stacks.names()), list[str]()

    def note(self: Stacks, name: str) -> object:
        if self is stacks:
            asked.append(self.canonical(name))
        return ready(self, name)

    monkeypatch.setattr(Stacks, "ready", note)
    answer(engine, greedy_requests(models, [5], max_tokens=1))
    assert set(asked) == set(copied)
    for position, name in enumerate(asked):
        before = set(copied[: copied.index(name)]) - set(asked[:position])
        assert {block(other) for other in before} <= {block(name)}, name
    engine.close()
