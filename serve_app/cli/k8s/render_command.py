"""`expertpool k8s render`: its options. What is rendered, `serve_app.k8s.rendering` knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli import output
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import Family


def render(
    family: Family,
    registry: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="The bucket with the releases, s3://… or gs://…; or a path below /data, on a "
            "volume.",
        ),
    ],
    overlay: Annotated[
        str, typer.Option(metavar="NAME", help="single-gpu, multi-gpu or cpu-dev.")
    ] = "single-gpu",
    component: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME",
            show_default=False,
            help="Add a component: redis-ft, network, gateway or monitoring. Repeat for more.",
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            show_default=False,
            help="A setting of the endpoint (device_memory=24GiB), or a size or name of the set "
            "(image=…, engine_memory=64GiB); --set help lists them. Repeat for more.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="What the set consolidates. The recipe and the texts beside it come along, and "
            "the pod gets the memory and the disk that its models need, whose headers are read.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write there.", show_default="stdout"),
    ] = None,
) -> None:
    """Write a set of manifests for your registry, for `kubectl apply -f`.

    The same words give the same file, so that it can be kept in a repository and compared.
    """
    if given == ["help"]:
        _print_values()
        return
    from serve_app.k8s.cluster_values import wanted
    from serve_app.k8s.lint.mistake import Described
    from serve_app.k8s.lint.rules import findings
    from serve_app.k8s.lint.schemas import Schemas
    from serve_app.k8s.rendering import in_yaml, rendered

    if recipe is not None:
        from serve_app.cli.k8s.recipe_run import recipe_run
    set_of = wanted(
        family=family,
        registry=registry,
        overlay=overlay,
        components=tuple(component or ()),
        given=_pairs(given or []),
        run=None if recipe is None else recipe_run(recipe, registry, family),
    )
    objects = rendered(set_of)
    name = str(file or "the rendered set")
    wrong = findings([Described(name, one) for one in objects], Schemas({}))
    for each in wrong:
        output.err().print(str(each), markup=False, soft_wrap=True)
    if refused := [each for each in wrong if each.is_error]:
        raise WrongUse(f"nothing is written: the set would have {len(refused)} mistakes")
    text = in_yaml(objects)
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")
        output.err().print(f"{file}: {len(objects)} objects", markup=False, soft_wrap=True)
    for line in _next_steps(objects, file):
        output.err().print(line, markup=False, soft_wrap=True)


def _pairs(given: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{one!r} is not NAME=VALUE", param_hint="--set")
        if name in pairs:
            raise typer.BadParameter(f"{name} is given twice", param_hint="--set")
        pairs[name] = value
    return pairs


def _print_values() -> None:
    from serve_app.config import ServeConfig
    from serve_app.engine.config import SETTINGS
    from serve_app.k8s.cluster_values import VALUES

    grid = output.table("name", "what it is", left=2)
    for name, setting in VALUES.items():
        grid.add_row(name, setting.help)
    for name in ServeConfig.names():
        if name not in ("registry", "family"):
            words = SETTINGS[name].help if name in SETTINGS else "a setting of the endpoint"
            grid.add_row(name, words)
    output.out().print(grid)


def _next_steps(objects: list[dict[str, object]], file: Path | None) -> list[str]:
    """What must be there before the set works, and cannot be in a file."""
    from serve_app.k8s.set_needs import needed

    said = [f"needed: {each}" for each in needed(objects)]
    return [*said, f"then: kubectl apply -f {file or 'FILE'}"]
