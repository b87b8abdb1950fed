"""Each reason for which a model is not served, and both halves refuse it in the same words."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)
from transformers.models.mixtral import modeling_mixtral

import representation.architecture
from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from representation.architecture.anatomy import study
from representation.architecture.attention import IGNORED, is_causal, unknown_keywords
from representation.architecture.config import config_of
from representation.architecture.errors import Unservable
from serve_app.engine.attention.paged import ATTENTION
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.errors import Unsupported
from tests.representation.architecture.made_up import MADE_UP, ScalingExperts
from tests.support.checkpoints import tiny_config

MIXTRAL: dict[str, Any] = tiny_config("mixtral").to_dict()
SWITCH: dict[str, Any] = tiny_config("switch_transformers").to_dict()
LLAMA4 = {"model_type": "llama4_text", "num_hidden_layers": 2}
ROPES = {"layer_rope_theta": [1e4, 5e4, 1e4], "intermediate_size": 24}

CONFIGS: dict[str, dict[str, Any]] = {
    "no first token for a decoder": SWITCH | {"decoder_start_token_id": None},
    "a stack without experts": tiny_config(
        "switch_transformers", num_sparse_encoder_layers=5
    ).to_dict(),
    "experts without room": SWITCH | {"expert_capacity": 0},
    "other media": MIXTRAL | {"vision_config": {}},
    "custom code": {"model_type": "nobody", "auto_map": {"AutoModel": "x.Y"}},
    "a model type that nobody knows": {"model_type": "nobody"},
    "a config that cannot be read": MIXTRAL | {"hidden_size": "wide"},
    "a model that is not a language model": {"model_type": "vit"},
    "layers of another type": MIXTRAL | {"layer_types": ["chunked_attention"] * 3},
    "no attention": tiny_config("lfm2_moe", layer_types=["conv"] * 4).to_dict(),
    "a config that nothing can be built from": MIXTRAL | {"hidden_act": "nobody"},
    "another class than the language model": MIXTRAL | {"architectures": ["MixtralForQuestions"]},
    "experts beside the interface": LLAMA4 | {"layer_types": ["full_attention"] * 2},
    "no experts": {"model_type": "llama"},
    "rope parameters that differ by layer": tiny_config("granitemoe_swa", **ROPES).to_dict(),
}
REASONS = [*CONFIGS, *MADE_UP]


def fields_for(reason: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The config of a model that is not served for this reason, its class made up if need be."""
    if reason in MADE_UP:
        monkeypatch.setattr(modeling_mixtral, *MADE_UP[reason])
    return CONFIGS.get(reason, MIXTRAL)


def words_of(fields: dict[str, Any]) -> Unservable:
    with pytest.raises(Unservable) as caught:
        study(config_of(fields), torch.float32)
    return caught.value


@pytest.mark.parametrize("reason", REASONS)
def test_both_halves_refuse_it_in_the_same_words(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fields = fields_for(reason, monkeypatch)
    words = str(words_of(fields))
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(Refused) as refused:  # there is no tensor to be read
        open_checkpoint(tmp_path)
    assert str(refused.value) == f"{tmp_path}: {words}"
    source: Any = SimpleNamespace(
        dtype="float32", models={"m": SimpleNamespace(config=fields, backbone=[])}
    )
    with pytest.raises(Unsupported) as unsupported:
        Engine.open(source, EngineConfig(device="cpu"))
    assert str(unsupported.value) == words


def test_every_reason_is_walked() -> None:
    """Each line that refuses is come to by one of the reasons above, and by no two."""
    walked: dict[tuple[str, int], str] = {}
    for reason in REASONS:
        with pytest.MonkeyPatch.context() as monkeypatch:
            error = words_of(fields_for(reason, monkeypatch))
        traceback = error.__traceback__
        assert traceback is not None
        while traceback.tb_next is not None:
            traceback = traceback.tb_next
        at = Path(traceback.tb_frame.f_code.co_filename).name, traceback.tb_lineno
        assert at not in walked, f"{reason} is refused where {walked[at]} is"
        walked[at] = reason
    lines = {
        (path.name, node.lineno)
        for path in Path(representation.architecture.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and "Unservable" in ast.unparse(node)
    }
    assert walked.keys() == lines


def test_attention_at_serving_refuses_a_keyword_that_it_does_not_know() -> None:
    attend = AttentionInterface()[ATTENTION]
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises(Unsupported, match="Linear calls attention with 'alibi', 'position_bias'"):
        attend(torch.nn.Linear(1, 1), x, x, x, None, position_bias=x, alibi=0, use_cache=False)


def test_an_argument_that_experts_do_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_mixtral, "MixtralSparseMoeBlock", ScalingExperts)
    assert "unexpected keyword argument 'scale'" in str(words_of(MIXTRAL))


@pytest.mark.parametrize("keyword", sorted(IGNORED))
def test_keywords_that_change_nothing_are_passed_over(keyword: str) -> None:
    assert unknown_keywords(None, {keyword: 1, "position_bias": None}) is None


@pytest.mark.parametrize("window", [None, 1, 2, 8, 4096])
def test_a_mask_is_causal_where_a_token_sees_what_is_before_it(window: int | None) -> None:
    own = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    assert is_causal(own, window)
    assert not is_causal(bidirectional_mask_function, window)
    assert not is_causal(own, 3 if window is None else window + 1)
    if window is not None:
        assert not is_causal(own, None)


def test_a_mask_of_chunks_is_no_window() -> None:
    chunks = chunked_causal_mask_function(64, torch.zeros(1, dtype=torch.int64))
    assert not is_causal(chunks, 64)


def test_the_unchanged_model_is_served() -> None:
    assert study(config_of(MIXTRAL), torch.float32).experts
