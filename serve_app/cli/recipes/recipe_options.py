"""How commands take a recipe: its values stand in for options that are not given."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from serve_app.cli.errors import WrongUse

RECIPE = "expertpool recipe"
"""Where the context of a command has the path of its recipe."""
SUFFIXES = (".yaml", ".yml", ".json")
EVALUATED = {"model": "original"} | {
    name: name for name in ("family", "registry", "base", "task", "text", "device")
}
"""What `evaluate` takes of a recipe: its own parameters, by those of `consolidate`."""


def _take(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        context.default_map = _options(context, path)
    return path


def _take_among_releases(context: typer.Context, values: list[str] | None) -> list[str]:
    """The others. What ends as files of recipes do is one."""
    recipes = [value for value in values or [] if value.endswith(SUFFIXES)]
    if len(recipes) > 1:
        raise WrongUse(f"{' and '.join(recipes)} are recipes: give only one")
    for recipe in recipes:
        options = _options(context, Path(recipe))
        context.default_map = {
            own: options[name] for name, own in EVALUATED.items() if name in options
        }
    return [value for value in values or [] if value not in recipes]


def _options(context: typer.Context, path: Path) -> dict[str, Any]:
    from serve_app.cli.recipes.recipe_file import read_recipe_file

    context.meta[RECIPE] = path
    return dict(read_recipe_file(path).as_options())


def _print_schema(context: typer.Context, is_wanted: bool) -> bool:
    if is_wanted:
        from serve_app.cli.recipes.recipe_file import json_schema

        help_of = {one.name: getattr(one, "help", None) or "" for one in context.command.params}
        typer.echo(json.dumps(json_schema(help_of), indent=2))
        raise typer.Exit
    return is_wanted


RecipePath = Annotated[
    Path | None,
    typer.Argument(
        metavar="RECIPE",
        show_default=False,
        is_eager=True,
        callback=_take,
        help="YAML or JSON file with options by name. An option that is given replaces the file's.",
    ),
]
ReleasesOrRecipe = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RELEASE | RECIPE",
        show_default=False,
        is_eager=True,
        callback=_take_among_releases,
        help="Ids of releases, beginnings of ids, or channels. "
        "Default: that of the channel stable, else the newest. "
        "A recipe (.yaml, .json) gives family, registry, originals, base, tasks, texts, device.",
    ),
]
RecipeSchema = Annotated[
    bool,
    typer.Option(
        "--recipe-schema",
        is_eager=True,
        callback=_print_schema,
        help="Print the JSON schema of recipes, for editors, and do nothing else.",
    ),
]


def is_from_file(context: typer.Context, parameter: str) -> bool:
    """Whether the value of a parameter stands in the recipe, and no option replaced it."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "DEFAULT_MAP"


def names_in_errors(context: typer.Context) -> Callable[[str], str]:
    """How errors call a parameter: by its option, or by the recipe that its value is from."""

    def name(parameter: str) -> str:
        option = f"--{parameter.replace('_', '-')}"
        if is_from_file(context, parameter):
            return f"{option} in {context.meta[RECIPE]}"
        return option

    return name


@contextmanager
def names_recipe(context: typer.Context) -> Iterator[None]:
    """Errors about what does not go together name the recipe, if there is one."""
    from consolidation.errors import Refused

    try:
        yield
    except (WrongUse, Refused) as error:
        path = context.meta.get(RECIPE)
        if path is None:
            raise
        raise type(error)(f"recipe {path}: {error}") from error


def chosen_sizes(context: typer.Context, **sizes: Any) -> dict[str, Any]:
    """What sets the size, by parameter; those of the recipe count if no option sets it.

    Raises `WrongUse` where more than one does.
    """
    by_option = {
        name: None if is_from_file(context, name) else value for name, value in sizes.items()
    }
    chosen = by_option if any(value is not None for value in by_option.values()) else sizes
    given = [
        f"--{name.replace('_', '-')} {value}" for name, value in chosen.items() if value is not None
    ]
    if len(given) > 1:
        raise WrongUse(f"{' and '.join(given)} each set the size of the release: give only one")
    return chosen
