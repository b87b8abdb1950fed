"""Rendered sets, and what is wrong with them when one thing is changed."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from serve_app.k8s.cluster_values import wanted
from serve_app.k8s.kustomize import Object
from serve_app.k8s.lint.mistake import Described, Finding
from serve_app.k8s.lint.rules import findings
from serve_app.k8s.lint.schemas import Schemas, read_schemas
from serve_app.k8s.rendering import rendered

ROOT = Path(__file__).parents[2]
_CUSTOM = ROOT.parent / "shared" / "k8s"


@cache
def schemas(*, core: bool = False) -> Schemas:
    """With those of custom objects, where they are beside the checkout.

    core: with those of Kubernetes too, which take a second for each set.
    """
    return Schemas(read_schemas([_CUSTOM]) if _CUSTOM.is_dir() else {}, core=core)


@cache
def has_custom_schemas() -> bool:
    return _CUSTOM.is_dir()


def a_set(overlay: str = "single-gpu", *components: str, **given: str) -> list[Object]:
    return rendered(
        wanted(
            family="main",
            registry="s3://acme/registry",
            overlay=overlay,
            components=components,
            given=given,
        )
    )


def of_kind(objects: list[Object], kind: str) -> Object:
    [found] = [one for one in objects if one["kind"] == kind]
    return found


def judged(objects: list[Object], known: Schemas | None = None) -> list[Finding]:
    """The mistakes of a set; doubts are left out."""
    described = [Described("set.yaml", one) for one in objects]
    found = findings(described, schemas() if known is None else known)
    return [each for each in found if each.is_error]


def change_serve_config(service: Object, change: Callable[[Any], None]) -> None:
    """Change what is written in `serveConfigV2`."""
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    change(config)
    service["spec"]["serveConfigV2"] = yaml.safe_dump(config)


@cache
def _kept(overlay: str, components: tuple[str, ...]) -> list[Object]:
    return a_set(overlay, *components)


def planted(
    change: Callable[[Object], None],
    kind: str = "RayService",
    overlay: str = "single-gpu",
    components: tuple[str, ...] = (),
    known: Schemas | None = None,
) -> list[Finding]:
    """The mistakes of a set in which one object was changed."""
    objects = copy.deepcopy(_kept(overlay, components))
    change(of_kind(objects, kind))
    return judged(objects, known)
