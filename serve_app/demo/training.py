"""Trains the demo's models: batches, the three ways to fine-tune, when to stop. Saves nothing."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from random import Random
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import MixtralConfig, MixtralForCausalLM

from serve_app.demo import skills
from serve_app.demo.byte_tokenizer import BOS, EOS, PAD, VOCABULARY, encode_answer, encode_prompt

IGNORED = -100
CHECK_EVERY = 25
LEARNED_MARGIN = 0.75
"""Logits by which an answer must be ahead to count as learned."""
KEPT_MARGIN = 0.25
"""What must be left of that after rounding and merging: others add up in another order."""

Method = Literal["from nothing", "all weights", "experts frozen", "low-rank"]


class NotLearned(Exception):
    """A model's answers were still wrong when its steps were used up."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """How one model is made. Rates are AdamW's; `experts_rate` is for expert weights.

    `enough` is the share of the check set that must be right for the rate to begin to fall.
    """

    model: str
    method: Method
    rate: float
    experts_rate: float
    most_steps: int
    cooldown: int = 100
    enough: float = 0.9
    batch: int = 32
    rank: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """What training one model came to. `margin` is the check set's smallest, in nats."""

    steps: int
    loss: float
    margin: float


def small_config() -> MixtralConfig:
    """The family's shape: 0.57 M parameters, 2 layers of 8 experts, 2 of them a token."""
    return MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        initializer_range=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def new_model(seed: int) -> MixtralForCausalLM:
    """A model that has learned nothing, in float32."""
    torch.manual_seed(seed)
    model = MixtralForCausalLM(small_config())
    model.set_experts_implementation("grouped_mm")  # a third faster than a loop over experts
    return model


def rows(pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """(prompt, answer) texts -> tokens (B, T) and labels (B, T); the loss is on answers alone."""
    encoded = [(encode_prompt(prompt), encode_answer(answer)) for prompt, answer in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in encoded)
    tokens = torch.full((len(pairs), width), PAD)
    labels = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, answer) in enumerate(encoded):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels


def training_pairs(random: Random, model: str, count: int) -> list[tuple[str, str]]:
    """Made-up words of all lengths and the model's answers to them.

    Batches of one length would be padded less, but take half as many steps again.
    """
    lengths = range(skills.SHORTEST, skills.LONGEST + 1)
    words = [skills.made_up_word(random, random.choice(lengths)) for _ in range(count)]
    if model == "base":
        words = [skills.in_any_case(random, word) for word in words]
    answer = skills.skill(model).answer
    return [(skills.prompt(word), answer(word)) for word in words]


@torch.inference_mode()
def margins(model: MixtralForCausalLM, name: str, words: Sequence[str]) -> Tensor:
    """How far each word's right answer is ahead, in logits, at its worst token. -> (words,)

    Above 0 means that greedy decoding answers the word rightly: as long as each token so far was
    right, it has seen exactly what is fed here.
    """
    answer = skills.skill(name).answer
    tokens, labels = rows([(skills.prompt(word), answer(word)) for word in words])
    logits = _logits(model, tokens)[:, :-1].float()  # (B, T-1, V)
    counts = labels[:, 1:] != IGNORED
    wanted = labels[:, 1:].clamp(min=0)[..., None]  # (B, T-1, 1)
    right = logits.gather(2, wanted)[..., 0]
    best_wrong = logits.scatter(2, wanted, -math.inf).amax(dim=2)
    return (right - best_wrong).masked_fill(~counts, math.inf).amin(dim=1)


def smallest_margin(model: MixtralForCausalLM, name: str, words: Sequence[str]) -> float:
    """The margin of the word that is answered worst."""
    return float(margins(model, name, words).min())


def train(
    model: MixtralForCausalLM,
    recipe: TrainingRecipe,
    report: Callable[[float], None],
) -> Trained:
    """Trains `model` in place until it answers most of the check set, and lets the rate fall to 0.

    What is then still wrong is trained on in the same way. `report` gets the share of the steps
    done, between 0 and 1. Raises NotLearned.
    """
    if recipe.method == "low-rank":
        add_low_rank(model, cast(int, recipe.rank), seed=recipe.seed)
    for name, parameter in model.named_parameters():
        if recipe.method == "experts frozen" and ".experts." in name:
            parameter.requires_grad_(False)
    try:
        trained = _train_parameters(model, recipe, report)
    finally:
        if recipe.method == "low-rank":
            merge_low_rank(model)
        model.requires_grad_(True)
    if trained.margin <= 0:
        raise NotLearned(
            f"model '{recipe.model}' still answers wrongly after {trained.steps} steps "
            f"(margin {trained.margin:.2f}, loss {trained.loss:.4f})"
        )
    return trained


def _train_parameters(
    model: MixtralForCausalLM,
    recipe: TrainingRecipe,
    report: Callable[[float], None],
) -> Trained:
    random = Random(f"{recipe.seed}/{recipe.model}")
    optimizer = _optimizer(model, recipe)
    low_rank = recipe.method == "low-rank"
    stop_at, loss, step = recipe.most_steps, math.nan, 0
    model.train()
    while step < stop_at:
        _set_rates(optimizer, step, stop_at, recipe.cooldown)
        tokens, labels = rows(training_pairs(random, recipe.model, recipe.batch))
        with parametrize.cached() if low_rank else nullcontext():
            loss = _step(model, optimizer, tokens, labels)
        step += 1
        if step % CHECK_EVERY == 0:
            report(step / stop_at)
            early = step + recipe.cooldown
            if early < stop_at and _share_right(model, recipe.model) >= recipe.enough:
                stop_at = early
        if step == stop_at and _share_right(model, recipe.model) < 1:
            stop_at = min(step + 2 * recipe.cooldown, recipe.most_steps)
    model.eval()
    report(1.0)
    return Trained(step, loss, smallest_margin(model, recipe.model, skills.CHECK))


def _share_right(model: MixtralForCausalLM, name: str) -> float:
    return float((margins(model, name, skills.CHECK) > LEARNED_MARGIN).float().mean())


def _step(
    model: MixtralForCausalLM, optimizer: torch.optim.Optimizer, tokens: Tensor, labels: Tensor
) -> float:
    """One update. tokens, labels: (B, T)  ->  the loss before it, nats per answer token."""
    logits = _logits(model, tokens)[:, :-1]
    loss = nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _logits(model: MixtralForCausalLM, tokens: Tensor) -> Tensor:
    """(B, T) -> (B, T, V). Rows are padded behind, where a causal model does not look."""
    return cast(Tensor, model(input_ids=tokens, use_cache=False).logits)


def _optimizer(model: MixtralForCausalLM, recipe: TrainingRecipe) -> torch.optim.AdamW:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    experts = [p for name, p in trained if ".experts." in name]
    others = [p for name, p in trained if ".experts." not in name]
    groups = [{"params": others, "peak": recipe.rate}]
    if experts:
        groups.append({"params": experts, "peak": recipe.experts_rate})
    return torch.optim.AdamW(
        groups, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )


def _set_rates(optimizer: torch.optim.Optimizer, step: int, stop_at: int, cooldown: int) -> None:
    """Up over 50 steps, level, and down to 0 over the last `cooldown` steps."""
    share = min(1.0, (step + 1) / 50, (stop_at - step) / cooldown)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


class LowRankUpdate(nn.Module):
    """W -> W + B A, for W (…, out, in), of rank at most `rank` in each matrix."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        *stack, rows, columns = weight.shape
        first = torch.randn(*stack, rank, columns, generator=generator) / math.sqrt(columns)
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(torch.zeros(*stack, rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.second @ self.first


def add_low_rank(model: nn.Module, rank: int, *, seed: int) -> None:
    """Freezes the model and gives experts and attention trainable updates of rank `rank`."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for module, name in _adapted(model):
        update = LowRankUpdate(cast(Tensor, getattr(module, name)), rank, generator)
        parametrize.register_parametrization(module, name, update)


def merge_low_rank(model: nn.Module) -> None:
    """Adds the updates to the weights for good."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(cast(nn.ModuleDict, module.parametrizations)):
                parametrize.remove_parametrizations(module, name)


def _adapted(model: nn.Module) -> list[tuple[nn.Module, str]]:
    found: list[tuple[nn.Module, str]] = []
    for name, module in model.named_modules():
        if name.endswith(".experts"):
            found += [(module, "gate_up_proj"), (module, "down_proj")]
        elif ".self_attn." in name and isinstance(module, nn.Linear):
            found.append((module, "weight"))
    return found
