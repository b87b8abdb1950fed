"""A fast form is used only where it gives what the plain one gives, within a tolerance."""

import torch

from serve_app.engine.device.trial import (
    TOLERANCES,
    attention_difference,
    first_equal,
    leaf_difference,
    logits_difference,
)


def test_the_first_form_that_does_not_differ_is_taken_and_those_before_are_named() -> None:
    said: list[tuple[str, str]] = []
    differences = {"a": "it fails", "b": None, "c": None}
    chosen = first_equal(differences, differences.__getitem__, lambda *pair: said.append(pair))
    assert (chosen, said) == ("b", [("a", "it fails")])
    assert first_equal(["a"], differences.__getitem__, lambda *_: None) is None


def test_a_difference_beyond_the_tolerance_is_told_and_one_within_it_is_not() -> None:
    wanted = torch.ones(2, 4)
    for kind, find in (
        ("leaf", leaf_difference),
        ("attention", lambda found, wanted: attention_difference(found, wanted, "plain")),
        ("captured step", logits_difference),
    ):
        tolerance = TOLERANCES[kind][torch.float32]
        assert find(wanted + tolerance / 2, wanted) is None, kind
        assert find(wanted + tolerance * 20, wanted) is not None, kind
        assert find(wanted * float("nan"), wanted) is not None, kind


def test_choices_must_be_the_same_and_shapes_too() -> None:
    assert leaf_difference(torch.tensor([1, 2]), torch.tensor([1, 2])) is None
    assert leaf_difference(torch.tensor([1, 2]), torch.tensor([1, 3])) is not None
    assert "not (3,)" in (leaf_difference(torch.ones(2), torch.ones(3)) or "")
    assert "not (3,)" in (attention_difference(torch.ones(2), torch.ones(3), "plain") or "")


def test_logits_of_tokens_that_a_model_has_not_are_left_out_but_must_be_the_same_ones() -> None:
    wanted = torch.tensor([[1.0, -float("inf")], [2.0, 3.0]])
    assert logits_difference(wanted.clone(), wanted) is None
    assert logits_difference(wanted.nan_to_num(neginf=0), wanted) is not None
