"""Which config fields may differ within a family: those that change no logits, and no other."""

from typing import Any

import pytest
import torch

from representation.architecture.config import config_of
from representation.architecture.family_fields import (
    CHANGE_MUCH,
    CHANGE_NOTHING,
    NOT_SERVED,
    UNREAD,
    config_differences,
    fields_read,
)
from tests.support.checkpoints import (
    ARCHITECTURES,
    ENCODER_DECODERS,
    TOWERS,
    tiny_config,
    tiny_model,
)
from tests.support.served import SERVED, served_fields

OTHER_VALUES: dict[str, Any] = {
    "architectures": None,
    "attention_dropout": 0.5,
    "dropout_rate": 0.5,
    "initializer_range": 0.7,
    "input_jitter_noise": 0.3,
    "router_aux_loss_coef": 0.5,
    "router_ignore_padding_tokens": True,
    "router_jitter_noise": 0.3,
    "router_z_loss_coef": 0.5,
}
"""For each field that is said to change nothing, another value than that of the tiny models."""
TOOLS: dict[str, Any] = {
    "unsloth_fixed": True,
    "model_name": "someone/something",
    "pretraining_tp": 4,
    "_attn_implementation_autoset": True,
    "max_seq_length": 4096,
}
FAST = [*ARCHITECTURES, *ENCODER_DECODERS]
SLOW = [pytest.param(one, marks=pytest.mark.slow) for one in SERVED if one not in FAST]


def ignored(one: dict[str, Any], other: dict[str, Any]) -> dict[str, bool]:
    return {found.field: found.ignored is not None for found in config_differences(one, other)}


def fields_of(architecture: str, **overrides: Any) -> dict[str, Any]:
    found: dict[str, Any] = tiny_config(architecture, **overrides).to_dict()
    return found


@torch.no_grad()
def logits_of(fields: dict[str, Any], state: dict[str, torch.Tensor], kind: Any) -> torch.Tensor:
    model = kind._from_config(config_of(fields), dtype=torch.float32).eval()
    model.load_state_dict(state)
    ids = torch.arange(3, 40).unsqueeze(0)  # (1, T)
    decoded = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    found: torch.Tensor = model(ids, **decoded).logits  # (1, T, V)
    return found


@pytest.mark.parametrize("architecture", [*FAST, *SLOW])
def test_what_is_said_to_change_nothing_changes_no_logits(architecture: str) -> None:
    # What windows turn on is compared itself.
    assert OTHER_VALUES.keys() == CHANGE_NOTHING.keys() - {"use_sliding_window"}
    model = tiny_model(architecture, **served_fields(architecture))
    plain = model.config.to_dict()
    text = plain.get("text_config", plain)
    changed = {
        field: value
        for field, value in OTHER_VALUES.items()
        if field in text and (architecture, field) not in CHANGE_MUCH
    }
    other = {"text_config": text | changed} if "text_config" in plain else changed
    state, kind = model.state_dict(), type(model)
    expected = logits_of(plain, state, kind)
    assert torch.equal(logits_of(plain | other, state, kind), expected)
    for _, field in [found for found in CHANGE_MUCH if found[0] == architecture]:
        found = logits_of(plain | {field: OTHER_VALUES[field]}, state, kind)
        assert not torch.equal(found, expected), f"{field} changes nothing here either"


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_fields_of_any_tool_that_no_model_reads_are_ignored(architecture: str) -> None:
    plain = fields_of(architecture)
    found = config_differences(plain, plain | TOOLS)
    assert {one.field: one.ignored for one in found} == dict.fromkeys(TOOLS, UNREAD)


@pytest.mark.parametrize(
    ("architecture", "one", "other", "expected"),
    [
        ("mixtral", {}, {"rms_norm_eps": 0.1}, {"rms_norm_eps": False}),
        ("mixtral", {}, {"hidden_act": "gelu"}, {"hidden_act": False}),
        ("mixtral", {}, {"dtype": "bfloat16"}, {"dtype": False}),
        ("phimoe", {}, {"router_jitter_noise": 0.3}, {"router_jitter_noise": False}),
        ("mixtral", {}, {"router_jitter_noise": 0.3}, {"router_jitter_noise": True}),
        ("mixtral", {}, {"head_dim": 8}, {}),
        ("mixtral", {}, {"head_dim": 16}, {"head_dim": False}),
        ("mixtral", {}, {"quantization_config": None, "output_router_logits": True}, {}),
        ("mixtral", {}, {"quantization_config": {}, "rope_theta": 5e5, "vocab_size": 330}, {}),
        ("qwen3_moe", {}, {"intermediate_size": 99}, {"intermediate_size": True}),
        # Lengths: only where both configs say that they are not used.
        ("mixtral", {}, {"sliding_window": 64}, {"sliding_window": False}),
        ("mixtral", {}, {"use_sliding_window": False}, {"use_sliding_window": True}),
        ("mixtral", {}, {"tool_window": 64}, {"tool_window": False}),
        ("qwen3_moe", {}, {"sliding_window": None, "max_window_layers": 9}, "max_window_layers"),
        ("qwen2_moe", {}, {"sliding_window": None, "max_window_layers": 9}, "max_window_layers"),
    ],
)
def test_a_difference_counts_if_anything_may_read_it(
    architecture: str, one: dict[str, Any], other: dict[str, Any], expected: Any
) -> None:
    plain = fields_of(architecture)
    if isinstance(expected, str):
        expected = {expected: True}
    assert ignored(plain | one, plain | other) == expected
    assert ignored(plain | other, plain | one) == expected


def test_windows_that_are_on_are_compared() -> None:
    on = fields_of("qwen2_moe", use_sliding_window=True, max_window_layers=9)
    assert ignored(on, on | {"sliding_window": 64}) == {"sliding_window": False}
    assert ignored(on, on | {"max_window_layers": 1})["max_window_layers"] is False
    off = ignored(on, on | {"use_sliding_window": False})
    assert off["sliding_window"] is False


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_theta": 5e5, "partial_rotary_factor": 0.5}, {}),
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.25}, {"number of rotary angles": False}),
    ],
)
def test_models_may_turn_by_other_angles_but_not_by_more(
    rope: dict[str, Any], expected: dict[str, bool]
) -> None:
    plain = fields_of("glm4_moe")
    other = {key: value for key, value in plain.items() if key != "partial_rotary_factor"}
    assert ignored(plain, other | {"rope_parameters": {"rope_type": "default"} | rope}) == expected


@pytest.mark.parametrize("architecture", TOWERS)
def test_fields_of_a_text_model_are_compared_and_those_of_other_towers_are_not(
    architecture: str,
) -> None:
    plain = fields_of(architecture)
    vision = plain | {"vision_config": plain["vision_config"] | {"hidden_size": 32}}
    (found,) = config_differences(plain, vision)
    assert (found.field, found.ignored) == ("vision_config", NOT_SERVED)
    text = plain["text_config"]
    for change, expected in [
        ({"rms_norm_eps": 0.1}, {"text_config.rms_norm_eps": False}),
        ({"unsloth_fixed": True}, {"text_config.unsloth_fixed": True}),
        ({"vocab_size": 330, "bos_token_id": 3}, {}),
        ({"num_nextn_predict_layers": 1}, {"text_config.num_nextn_predict_layers": True}),
    ]:
        assert ignored(plain, plain | {"text_config": text | change}) == expected


def test_a_token_that_the_forward_of_a_wrapper_looks_for_is_the_familys() -> None:
    plain = fields_of("gemma4")
    assert ignored(plain, plain | {"image_token_id": 3}) == {"image_token_id": False}
    plain = fields_of("qwen3_vl_moe")  # which looks for it where there are images alone
    assert ignored(plain, plain | {"image_token_id": 3}) == {"image_token_id": True}


def test_a_family_has_one_model_type() -> None:
    assert ignored(fields_of("mixtral"), fields_of("olmoe"))["model_type"] is False


def test_words_in_the_code_of_experts_count_as_read() -> None:
    assert {"current_hidden_states", "num_local_experts"} <= fields_read(fields_of("mixtral"))


def test_rope_parameters_that_attention_reads_itself_are_the_familys() -> None:
    """Those of Mistral-4 scale queries by position, beside what its angles do."""
    fields = tiny_config("mistral4", **served_fields("mistral4")).to_dict()
    rope = fields["rope_parameters"]
    other = fields | {"rope_parameters": rope | {"llama_4_scaling_beta": 0.3}}
    assert ignored(fields, other) == {"rope_parameters": False}
    assert ignored(fields, dict(fields)) == {}
