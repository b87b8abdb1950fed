"""What a user may say of a set of manifests, beside settings of the endpoint. Renders nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, get_type_hints

from serve_app.config import ServeConfig
from serve_app.engine.settings import Setting, count, num_bytes
from serve_app.errors import ConfigError
from serve_app.k8s.kustomize import names_of
from serve_app.k8s.recipe_pod import RecipeRun

LEAST_KUBERAY = (1, 5, 1)
"""The first that knows `authOptions`; an older one leaves the dashboard open."""
GRADUAL_KUBERAY = (1, 7, 0)
"""The first in which incremental upgrades are on by default."""


def _words(value: object) -> str:
    text = str(value).strip()
    if not text or any(letter.isspace() for letter in text):
        raise ValueError(f"{value!r} is empty or has spaces")
    return text


def _version(value: object) -> str:
    text = str(value).strip().removeprefix("v")
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise ValueError(f"{value!r} is no version: give 1.7.0")
    if parts(text) < LEAST_KUBERAY:
        least = ".".join(map(str, LEAST_KUBERAY))
        raise ValueError(
            f"{text} is older than {least}, and would ignore authOptions: then anybody who reaches "
            "the dashboard can run code"
        )
    return text


def _name(value: object) -> str:
    text = str(value)
    if len(text) > 63 or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", text):
        raise ValueError(f"{value!r} is no name of Kubernetes: give small letters, digits and -")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterValues:
    """The sizes and names of one set. None: what the overlay says.

    Values may be text. Raises: ConfigError, with the field, the value and the allowed values.
    """

    image: Annotated[str | None, Setting(_words, "IMAGE", "The image, with its tag.")] = None
    namespace: Annotated[str | None, Setting(_name, "NAME", "The namespace.")] = None
    channel: Annotated[str | None, Setting(_name, "C", "The channel that is served.")] = None
    engines: Annotated[int | None, Setting(count, "N", "Engines at least.")] = None
    max_engines: Annotated[int | None, Setting(count, "N", "Engines at most.")] = None
    ingresses: Annotated[int | None, Setting(count, "N", "Ingresses, each on a node.")] = None
    engine_cpus: Annotated[int | None, Setting(count, "N", "Cores of an engine's pod.")] = None
    engine_memory: Annotated[
        int | None, Setting(num_bytes, "BYTES", "Memory of an engine's pod.")
    ] = None
    object_store_memory: Annotated[
        int | None, Setting(num_bytes, "BYTES", "Ray's object store; /dev/shm follows from it.")
    ] = None
    consolidation_cpus: Annotated[
        int | None, Setting(count, "N", "Cores of the pod that consolidates.")
    ] = None
    consolidation_memory: Annotated[
        int | None,
        Setting(
            num_bytes, "BYTES", "Its memory; --recipe says it: see `plan-memory --consolidation`."
        ),
    ] = None
    consolidation_disk: Annotated[
        int | None, Setting(num_bytes, "BYTES", "Its disk, for what it fetches; --recipe says it.")
    ] = None
    schedule: Annotated[
        str | None, Setting(str, "CRON", "When it consolidates by itself; else never.")
    ] = None
    storage_class: Annotated[
        str | None, Setting(_name, "NAME", "Of the volume: one that offers ReadWriteMany.")
    ] = None
    serve_identity: Annotated[
        str | None, Setting(_words, "ID", "The cloud's account that may read the bucket.")
    ] = None
    consolidate_identity: Annotated[
        str | None, Setting(_words, "ID", "The cloud's account that may write it.")
    ] = None
    storage_account: Annotated[
        str | None, Setting(_words, "NAME", "Azure's storage account, for az://.")
    ] = None
    hostname: Annotated[str | None, Setting(_words, "HOST", "The name of the endpoint.")] = None
    gateway: Annotated[
        str | None, Setting(_words, "NS/NAME", "The Gateway that requests come through.")
    ] = None
    gateway_class: Annotated[
        str | None, Setting(_words, "NAME", "For multi-gpu: the class of KubeRay's Gateway.")
    ] = None
    kuberay: Annotated[str, Setting(_version, "VERSION", "The KubeRay there is.")] = "1.7.0"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            try:
                object.__setattr__(self, field.name, VALUES[field.name].read(value))
            except ValueError as error:
                raise ConfigError(f"{field.name}: {error}") from error


VALUES: Mapping[str, Setting] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(ClusterValues, include_extras=True).items()
}
"""What is said of each field of `ClusterValues`, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One set: an overlay and components of ours, and what is said of them."""

    overlay: str
    components: tuple[str, ...]
    registry: str
    family: str
    values: ClusterValues
    settings: Mapping[str, str]
    """Of the endpoint: fields of `ServeConfig`, of an engine too."""
    run: RecipeRun | None = None
    """What the job consolidates; None: a ConfigMap that is made by hand says it."""


def wanted(
    *,
    family: str,
    registry: str,
    overlay: str,
    components: tuple[str, ...] = (),
    given: Mapping[str, str] | None = None,
    run: RecipeRun | None = None,
) -> Wanted:
    """What to render. The component of the registry follows from its address.

    given: fields of `ClusterValues` and settings of the endpoint, by name.
    Raises ConfigError for what is unknown, or does not go together.
    """
    own, settings = {}, {}
    known = [name for name in ServeConfig.names() if name not in ("registry", "family")]
    for name, value in (given or {}).items():
        if name in VALUES:
            own[name] = value
        elif name in known:
            settings[name] = value
        else:
            raise ConfigError(
                f"{name}: there is no such value; there are {', '.join([*VALUES, *known])}"
            )
    for part, names in (("overlays", (overlay,)), ("components", components)):
        for name in names:
            if name not in names_of(part):
                there = ", ".join(names_of(part))
                raise ConfigError(f"{name!r} is none of our {part}: {there}")
    values = ClusterValues(**own)  # type: ignore[arg-type]  # text; it is parsed
    found = tuple(dict.fromkeys([*_of_registry(registry, values), *components]))
    _check(overlay, found, values)
    return Wanted(
        overlay=overlay,
        components=found,
        registry=registry,
        family=family,
        values=values,
        settings=settings,
        run=run,
    )


def parts(version: str) -> tuple[int, ...]:
    """`1.7.0` as numbers."""
    return tuple(map(int, version.split(".")))


_BUCKETS = {
    "s3": "bucket-s3",
    "gs": "bucket-gcs",
    "gcs": "bucket-gcs",
    "az": "bucket-azure",
    "abfs": "bucket-azure",
    "abfss": "bucket-azure",
}
"""The component for a scheme."""


def _of_registry(registry: str, values: ClusterValues) -> tuple[str, ...]:
    """The component that makes this address work."""
    scheme, there, _ = registry.partition("://")
    if not there:
        if not registry.startswith("/data/"):
            raise ConfigError(
                f"registry: {registry!r} is no address that pods can read: give that of a bucket, "
                "s3://…, gs://… or az://…, or a path below /data for a volume"
            )
        return ("rwx-volume",)
    named = _BUCKETS.get(scheme)
    has_identity = values.serve_identity or values.consolidate_identity
    if has_identity and named is None:
        raise ConfigError(
            f"serve_identity: is for s3://, gs:// and az://, and the registry is {registry}"
        )
    return (named,) if named and has_identity else ()


def _check(overlay: str, components: tuple[str, ...], values: ClusterValues) -> None:
    is_gradual, is_azure = overlay == "multi-gpu", "bucket-azure" in components
    if is_azure and values.storage_account is None:
        raise ConfigError("storage_account: give the one that the registry is in")
    if is_gradual and "gateway" in components:
        raise ConfigError(
            "gateway: does not go with multi-gpu, for which KubeRay makes a Gateway and a route of "
            "its own: give gateway_class"
        )
    if is_gradual and parts(values.kuberay) < GRADUAL_KUBERAY:
        raise ConfigError(
            f"kuberay: {values.kuberay} is older than {'.'.join(map(str, GRADUAL_KUBERAY))}, which "
            "is the first with the upgrades of multi-gpu, unless a feature gate is set"
        )
    for name, goes, needed in (
        ("hostname", "gateway" in components, "--with gateway"),
        ("gateway", "gateway" in components, "--with gateway"),
        ("gateway_class", is_gradual, "--overlay multi-gpu"),
        ("max_engines", is_gradual, "--overlay multi-gpu"),
        ("storage_class", "rwx-volume" in components, "a registry below /data"),
        ("storage_account", is_azure, "az://, and serve_identity or consolidate_identity"),
    ):
        if getattr(values, name) is not None and not goes:
            raise ConfigError(f"{name}: has no effect without {needed}")
    if overlay == "single-gpu" and (values.engines or 1) > 1:
        raise ConfigError(f"engines: {values.engines} is more than 1: give --overlay multi-gpu")
    most, least = values.max_engines, values.engines
    if most is not None and least is not None and most < least:
        raise ConfigError(f"max_engines: {most} is less than engines: {least}")
