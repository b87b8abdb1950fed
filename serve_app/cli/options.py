"""Options that several commands share. How their values are read: `parsing.py`."""

from typing import Annotated

import typer

from serve_app.cli.parsing import parse_limit, parse_name, parse_registry

Family = Annotated[
    str,
    typer.Option(
        "--family",
        metavar="F",
        parser=parse_name,
        help="Name of the model family: the models that share a pool.",
    ),
]
RegistryUrl = Annotated[
    str,
    typer.Option(
        "--registry",
        metavar="DIR",
        parser=parse_registry,
        help="Where releases are stored: a directory or an fsspec address.",
    ),
]
Release = Annotated[
    str | None,
    typer.Argument(
        metavar="RELEASE",
        show_default=False,
        help="Id of a release, the beginning of an id, or a channel. "
        "Default: that of the channel stable, else the newest.",
    ),
]
RequiredRelease = Annotated[
    str,
    typer.Argument(
        metavar="RELEASE", help="Id of a release, the beginning of an id, or a channel."
    ),
]
Channel = Annotated[
    str,
    typer.Option(
        "--channel",
        metavar="C",
        parser=parse_name,
        help="Channel: a name that points to a release.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME=SOURCE",
        show_default=False,
        help="A model, and where its checkpoint is. Repeat for more.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        show_default=False,
        help="Checkpoint that the models were fine-tuned from.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="MODEL=FILE.jsonl",
        show_default=False,
        help="Questions to measure a model's accuracy: JSON with prompt and completion per line.",
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="MODEL=FILE",
        show_default=False,
        help="Text to measure a model's perplexity (.txt, or .jsonl to score completions).",
    ),
]
MaxAccuracyDrop = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Publish nothing if a model's accuracy on its task drops by more (0.01: one point).",
    ),
]
MaxPerplexityRise = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Publish nothing if a model's perplexity on its text rises by more (0.01: 1 %).",
    ),
]
MinRetained = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Publish nothing if a model keeps less of its effect: 1 − KL to its original ÷ KL of "
        "original to base. Needs --base.",
    ),
]
NoiseFloor = Annotated[
    bool | None,
    typer.Option(
        "--noise-floor/--no-noise-floor",
        show_default=False,
        rich_help_panel="Noise",  # among the others, it would squeeze their names
        help="Count tensors as equal that differ by rounding alone. Default: only with a budget.",
    ),
]
