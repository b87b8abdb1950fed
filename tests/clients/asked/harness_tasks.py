"""Tasks of lm-eval, in a file of their own, by `local-completions` and `local-chat-completions`."""

import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from tests.clients.calling import Facts, Scored
from tests.clients.questions import holds, same

CHOICES: dict[str, Any] = {
    "task": "ours_choices",
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
ROLLING: dict[str, Any] = {
    "task": "ours_rolling",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{context}}",
    "metric_list": [{"metric": "bits_per_byte"}],
}
WRITING: dict[str, Any] = {
    "task": "ours_writing",
    "output_type": "generate_until",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
ENOUGH = 1e-4
"""Of a log-likelihood, in nats."""


def _questions(facts: Facts) -> list[dict[str, Any]]:
    choices: dict[str, list[Scored]] = defaultdict(list)
    for each in facts.scored:
        choices[each.context].append(each)
    return [
        {"context": context, "choices": [each.continuation for each in found], "answer": 0}
        for context, found in choices.items()
    ]


def _evaluated(facts: Facts, task: dict[str, Any], kind: str, **arguments: Any) -> Any:
    """What lm-eval found, sample by sample."""
    os.environ["OPENAI_API_KEY"] = facts.key
    route = "chat/completions" if "chat" in kind else "completions"
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "questions.jsonl"
        lines = [json.dumps(each) for each in _questions(facts)]
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        source = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
        }
        (Path(place) / "task.yaml").write_text(json.dumps({**task, **source}), encoding="utf-8")
        manager = TaskManager(include_path=place, include_defaults=False)
        found = lm_eval.simple_evaluate(
            model=kind,
            model_args={
                "model": facts.model,
                "base_url": f"{facts.v1}/{route}",
                "max_retries": 1,
                **arguments,
            },
            tasks=[task["task"]],
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
            apply_chat_template="chat" in kind,
        )
    assert found is not None
    return found["samples"][task["task"]]


def _check(facts: Facts, samples: Any) -> None:
    wanted = {(each.context, each.continuation): each.logprob for each in facts.scored}
    seen = 0
    for sample in samples:
        for choice, response in zip(
            sample["doc"]["choices"], sample["filtered_resps"], strict=True
        ):
            logprob = wanted[sample["doc"]["context"], choice]
            holds(abs(float(response[0]) - logprob) < ENOUGH, (choice, response, logprob))
            seen += 1
    same(seen, len(wanted))


def log_likelihoods_are_the_checkpoints_own(facts: Facts) -> None:
    samples = _evaluated(facts, CHOICES, "local-completions", tokenizer=facts.tokenizer)
    _check(facts, samples)


def log_likelihoods_in_batches_at_once_are_the_same(facts: Facts) -> None:
    samples = _evaluated(
        facts,
        CHOICES,
        "local-completions",
        tokenizer=facts.tokenizer,
        num_concurrent=3,
        batch_size=2,
    )
    _check(facts, samples)


def a_rolling_log_likelihood_is_computed(facts: Facts) -> None:
    samples = _evaluated(facts, ROLLING, "local-completions", tokenizer=facts.tokenizer)
    same(len(samples), len(_questions(facts)))
    holds(all(float(sample["filtered_resps"][0]) < 0 for sample in samples), samples)


def completions_are_written(facts: Facts) -> None:
    samples = _evaluated(facts, WRITING, "local-completions", tokenizer=facts.tokenizer)
    same(len(samples), len(_questions(facts)))
    holds(all(sample["filtered_resps"][0] for sample in samples), samples)


def chats_are_written(facts: Facts) -> None:
    samples = _evaluated(facts, WRITING, "local-chat-completions")
    same(len(samples), len(_questions(facts)))
    holds(all(sample["filtered_resps"][0] for sample in samples), samples)


def chats_at_once_are_the_same(facts: Facts) -> None:
    alone = _evaluated(facts, WRITING, "local-chat-completions")
    both = _evaluated(facts, WRITING, "local-chat-completions", num_concurrent=3)
    same(
        [sample["filtered_resps"] for sample in both],
        [sample["filtered_resps"] for sample in alone],
    )
