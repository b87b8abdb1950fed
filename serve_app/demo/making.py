"""Trains, saves and scores one model of the demo, in a process of its own. Keeps no cache."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, MixtralForCausalLM
from transformers.utils import logging as transformers_logging

from serve_app.demo import skills
from serve_app.demo.byte_tokenizer import BOS, EOS, PAD, build_tokenizer
from serve_app.demo.training import (
    KEPT_MARGIN,
    NotLearned,
    TrainingRecipe,
    new_model,
    smallest_margin,
    train,
)

RECIPES = (
    TrainingRecipe("base", "from nothing", 3e-3, 3e-3, most_steps=2000, cooldown=250),
    TrainingRecipe("shout", "experts frozen", 2e-3, 0.0, most_steps=600),
    TrainingRecipe("cipher", "low-rank", 2e-3, 1e-3, most_steps=800, rank=8),
    TrainingRecipe("spell", "all weights", 2e-3, 5e-4, most_steps=800),
    TrainingRecipe("plural", "all weights", 2e-3, 5e-4, most_steps=1000),
    TrainingRecipe("reverse", "all weights", 2e-3, 5e-4, most_steps=1000),
)
"""The base first; the others start from it as it was saved."""

PROCESSES = 2
ATTEMPTS = 3
Report = Callable[[str, float], None]


class Stopped(Exception):
    """Training was told to end."""


@dataclass(frozen=True, slots=True)
class Made:
    """How a model came out, scored as saved. Margins are in logits, above 0 is all right."""

    model: str
    method: str
    rank: int | None
    steps: int
    seconds: float
    cpu_seconds: float
    check_margin: float
    held_out_margin: float


def make_family(
    directory: Path, report: Report, recipes: tuple[TrainingRecipe, ...] = RECIPES
) -> None:
    """Writes `directory/<model>` for every recipe, and `directory/made.json`.

    Each model is trained by one thread: at this size a second thread costs more than it brings,
    and one thread adds up in one order. Two models are trained at the same time instead.
    `report(model, share)` is called from another thread. Raises NotLearned.
    """
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[tuple[str, float] | None] = context.SimpleQueue()
    stop = context.Event()
    listener = threading.Thread(target=_listen, args=(queue, report), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(PROCESSES, context, initializer=_begin, initargs=(queue, stop))
    base, *others = recipes
    try:
        made = [pool.submit(_make, base, directory).result()]
        futures = [pool.submit(_make, recipe, directory) for recipe in others]
        made += [future.result() for future in futures]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)
        listener.join()
    (directory / "made.json").write_text(json.dumps([asdict(one) for one in made], indent=1))


def make_model(recipe: TrainingRecipe, directory: Path, report: Callable[[float], None]) -> Made:
    """Trains a model, saves it in `directory/<model>` in bfloat16, and scores what was saved.

    One that has not learned its skill is trained again from another seed. Raises NotLearned.
    """
    for attempt in range(ATTEMPTS):
        began, cpu_began = time.monotonic(), time.process_time()
        tried = replace(recipe, seed=recipe.seed + attempt)
        model = _start(tried, directory)
        try:
            steps = train(model, tried, report).steps
            save(model, tried, directory / recipe.model, steps)
            saved = load(directory / recipe.model)
            check = smallest_margin(saved, recipe.model, skills.CHECK)
            held_out = smallest_margin(saved, recipe.model, skills.HELD_OUT)
            if min(check, held_out) <= KEPT_MARGIN:
                raise NotLearned(f"model '{recipe.model}' answers wrongly once it is saved")
        except NotLearned:
            if attempt + 1 == ATTEMPTS:
                raise
            continue
        return Made(
            recipe.model,
            recipe.method,
            recipe.rank,
            steps,
            time.monotonic() - began,
            time.process_time() - cpu_began,
            check,
            held_out,
        )
    raise AssertionError("the last attempt returns or raises")


def save(model: MixtralForCausalLM, recipe: TrainingRecipe, directory: Path, steps: int) -> None:
    """A checkpoint as people publish them, in bfloat16, with how it was made beside it."""
    cast(torch.nn.Module, model).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False
    )
    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    facts = {"method": recipe.method, "rank": recipe.rank, "seed": recipe.seed, "steps": steps}
    (directory / "training.json").write_text(json.dumps(facts, indent=1))


def load(directory: Path, dtype: torch.dtype = torch.bfloat16) -> MixtralForCausalLM:
    """A model of the family, ready to answer."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
    return cast(MixtralForCausalLM, model.eval())


def _start(recipe: TrainingRecipe, directory: Path) -> MixtralForCausalLM:
    if recipe.method == "from nothing":
        return new_model(recipe.seed)
    model = load(directory / "base", torch.float32)
    model.set_experts_implementation("grouped_mm")
    return model


_channel: list[tuple["SimpleQueue[tuple[str, float] | None]", Event]] = []
"""In a worker process only: where it reports to. A pool has no other way to hand it over."""


def _begin(queue: "SimpleQueue[tuple[str, float] | None]", stop: Event) -> None:
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    _channel.append((queue, stop))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _make(recipe: TrainingRecipe, directory: Path) -> Made:
    queue, stop = _channel[0]

    def report(share: float) -> None:
        if stop.is_set():
            raise Stopped
        queue.put((recipe.model, share))

    return make_model(recipe, directory, report)


def _listen(queue: "SimpleQueue[tuple[str, float] | None]", report: Report) -> None:
    while (message := queue.get()) is not None:
        report(*message)
