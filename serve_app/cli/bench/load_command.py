"""`bench load`: its options. Measures nothing, words no result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.bench import asking, files, release_choice
from serve_app.cli.bench.asking import (
    AnswerTokens,
    Drain,
    NumModels,
    PromptTokens,
    Rate,
    Seed,
    Skew,
)
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.shown import show, stages
from serve_app.cli.bench.subject_options import (
    MaybeFamily,
    MaybeRegistry,
    MaybeRelease,
    NumLayers,
    ShapeName,
    Unmerged,
    on_its_device,
)
from serve_app.cli.engine_options import engine_options, given_options
from serve_app.cli.errors import WrongUse
from serve_app.cli.parsing import parse_positive
from serve_app.engine.config import EngineConfig

if TYPE_CHECKING:
    from serve_app.bench.arms.arm_catalogue import ArmSpec
    from serve_app.bench.requests.workload import Asked

DURATION_S = 60.0
"""Seconds of arrivals, if nothing else limits them."""
VOCABULARY = 256
"""Token ids of prompts over HTTP: an endpoint does not say how many its models know."""


@engine_options()
def load(
    engine: EngineConfig,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=False,
            help="Address of an OpenAI-compatible endpoint to ask.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="A model to ask. Repeat for more. Default: all.",
        ),
    ] = None,
    shape: ShapeName = None,
    layers: NumLayers = None,
    models: NumModels = None,
    registry: MaybeRegistry = None,
    family: MaybeFamily = None,
    release: MaybeRelease = None,
    unmerged: Unmerged = False,
    rate: Rate = None,
    skew: Skew = 0.0,
    requests: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Most requests to send.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            parser=parse_positive,
            show_default=False,
            help="Seconds of arrivals. Default: 60 if --requests is not given.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="CSV file of arrivals: TIMESTAMP,ContextTokens,GeneratedTokens.",
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            metavar="X", parser=parse_positive, help="How much faster to replay the trace."
        ),
    ] = 1.0,
    prompt_tokens: PromptTokens = "64",
    answer_tokens: AnswerTokens = "64",
    vocabulary: Annotated[
        int, typer.Option(min=4, help="Prompts over HTTP are random token ids below this number.")
    ] = VOCABULARY,
    seed: Seed = 0,
    drain: Drain = 600.0,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Send requests at given times to an endpoint or an engine, even if others are unfinished.

    Requests arrive by a Poisson process of --rate, or as in --trace.
    Waits count from a request's arrival, however late it was sent;
    the output says how late that was.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.load.load import measure_load
    from serve_app.bench.load.load_terminal import terminal

    if requests is None and duration is None:
        duration = DURATION_S
    _require_one_kind_of_arrivals(rate, trace, speed)
    lengths = [
        asking.parse_lengths(prompt_tokens, hint="--prompt-tokens"),
        asking.parse_lengths(answer_tokens, hint="--answer-tokens"),
    ]
    settings: dict[str, Any] = {"skew": skew, "seed": seed, "drain_s": drain}
    settings |= {"duration_s": duration, "requests": requests}
    bounds = asking.Bounds(duration, requests)
    if trace is not None:
        arrivals = asking.trace_arrivals(trace, bounds, speed=speed)
        settings |= {"trace": trace.name, "speed": speed}
    else:
        assert rate is not None
        arrivals = asking.poisson_arrivals(rate, lengths, bounds, seed=seed)
        settings |= {
            "rate": rate,
            "prompt_tokens": prompt_tokens,
            "answer_tokens": answer_tokens,
        }
    if not arrivals:
        raise WrongUse("no request arrives in so short a time")
    wanted = tuple(model or ())
    subject = release_choice.published(registry, family, release, shape=shape, layers=layers)
    if url is not None:
        own = {"--shape": shape, "--layers": layers, "--models": models, "--registry": registry}
        own |= {"--unmerged": unmerged}
        given = [name for name, value in own.items() if value]
        _refuse_beside_url([*given, *given_options(engine)])
        spec, asked, of_target = _endpoint(url, wanted, vocabulary)
        device = "cpu"
    else:
        chosen = on_its_device(engine)
        device = chosen.device
        found = asking.asked_release(
            subject, shape=shape, layers=layers, models=models, engine=chosen
        )
        spec, asked, of_target = _engine(found, wanted, chosen, merged=not unmerged)
    with stages() as on_progress:
        result = measure_load(spec, asked, arrivals, of_target | settings, device, on_progress)
    show(terminal(result))
    files.write(result, json_file, html_file)


def _require_one_kind_of_arrivals(rate: float | None, trace: Path | None, speed: float) -> None:
    if (rate is None) == (trace is None):
        raise WrongUse("give either --trace or --rate")
    if trace is None and speed != 1.0:
        raise WrongUse("--speed needs --trace")


def _refuse_beside_url(options: list[str]) -> None:
    for name in options:
        raise WrongUse(f"{name} is for an engine that starts here, but --url is given")


def _endpoint(
    url: str, wanted: tuple[str, ...], vocabulary: int
) -> tuple[ArmSpec, list[Asked], dict[str, Any]]:
    """Raises: WrongUse if this is not an address; ConfigError if it does not answer properly."""
    from urllib.parse import urlsplit

    from serve_app.bench.arms.arm_catalogue import ArmSpec
    from serve_app.bench.arms.endpoint import HttpSpec, asked_of

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise WrongUse(f"--url {url}: an address must begin with http:// or https://")
    base = url.rstrip("/").removesuffix("/v1")
    asked = asked_of(base, wanted, vocabulary)
    spec = HttpSpec(base, tuple(one.name for one in asked))
    return ArmSpec("http", (spec,)), asked, {"url": base, "models": list(spec.models)}


def _engine(
    found: asking.AskedRelease, wanted: tuple[str, ...], engine: EngineConfig, *, merged: bool
) -> tuple[ArmSpec, list[Asked], dict[str, Any]]:
    """Raises: UnknownModel; DoesNotFit and Unsupported like an engine."""
    from dataclasses import replace

    from serve_app.bench.arms.arm import Ground
    from serve_app.bench.arms.arm_catalogue import ArmSpec
    from serve_app.bench.arms.served import ProcessSpec
    from serve_app.errors import UnknownModel

    for name in wanted:
        if name not in found.models:
            raise UnknownModel(f"there is no model {name!r}: {', '.join(found.models)}")
    asked = replace(found, models=wanted or found.models)
    plan = found.plan(engine)
    # The engine holds all models of the release, as in serving; some are asked.
    ground = Ground(found.spec, found.models, engine)
    spec = ArmSpec("engine", (ProcessSpec("engine", ground, merged=merged),))
    settings = {
        **found.settings,
        "models": list(asked.models),
        "merged": merged,
        "dtype": plan.dtype,
    }
    return spec, asked.asked(plan.kv_tokens), settings
