"""`bench http`: its options. Measures nothing, words no result."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from serve_app.cli.bench import asking, files, release_choice
from serve_app.cli.bench.asking import AnswerTokens, NumModels, PromptTokens, Seed
from serve_app.cli.bench.axes import parse_counts
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.shown import show, stages
from serve_app.cli.bench.subject_options import (
    MaybeFamily,
    MaybeRegistry,
    MaybeRelease,
    NumLayers,
    ShapeName,
    on_its_device,
)
from serve_app.cli.engine_options import engine_options
from serve_app.cli.parsing import parse_positive
from serve_app.engine.config import EngineConfig


@engine_options(without=("kv_tokens", "max_sequences", "prefix_cache"))
def http(
    engine: EngineConfig,
    shape: ShapeName = None,
    layers: NumLayers = None,
    models: NumModels = None,
    registry: MaybeRegistry = None,
    family: MaybeFamily = None,
    release: MaybeRelease = None,
    streams: Annotated[
        str, typer.Option(metavar="N,…", help="Answers that are streamed at the same time.")
    ] = "16,64",
    prompt_tokens: PromptTokens = "64",
    answer_tokens: AnswerTokens = "64",
    rounds: Annotated[
        int, typer.Option(min=1, help="How often all streams are asked for, after a first time.")
    ] = 3,
    idle: Annotated[
        float,
        typer.Option(
            metavar="S", parser=parse_positive, help="Seconds to measure without requests."
        ),
    ] = 5.0,
    seed: Seed = 0,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Measure the processor time that each process of an endpoint takes for a token.

    Starts an endpoint as `serve` does, and a client in a process of its own.
    What a process takes without requests is subtracted. Linux only.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.arms.arm import Ground
    from serve_app.bench.http.http_cost import Asking, measure_http
    from serve_app.bench.http.http_terminal import terminal
    from serve_app.bench.requests.workload import Workload

    counts = parse_counts(streams, hint="--streams")
    workload = Workload(
        asking.parse_lengths(prompt_tokens, hint="--prompt-tokens"),
        asking.parse_lengths(answer_tokens, hint="--answer-tokens"),
        skew=0.0,
        seed=seed,
    )
    subject = release_choice.published(registry, family, release, shape=shape, layers=layers)
    chosen = on_its_device(engine)
    found = asking.asked_release(subject, shape=shape, layers=layers, models=models, engine=chosen)
    kv_tokens = asking.kv_tokens_for(workload, max(counts))
    roomy = replace(chosen, max_sequences=max(counts), kv_tokens=kv_tokens)
    plan = found.plan(roomy)
    ground = Ground(found.spec, found.models, roomy)
    settings = {
        **found.settings,
        "models": list(found.models),
        "dtype": plan.dtype,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "rounds": rounds,
        "idle_s": idle,
        "seed": seed,
    }
    todo = Asking(tuple(found.asked(plan.kv_tokens)), workload, idle, rounds)
    with stages() as on_progress:
        result = measure_http(ground, todo, counts, settings, on_progress)
    show(terminal(result))
    files.write(result, json_file, html_file)
