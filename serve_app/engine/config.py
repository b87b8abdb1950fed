"""What an operator may set for an engine. Made once at each border; holds no tensor and no file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, get_type_hints

from serve_app.engine.settings import Setting, count, num_bytes, one_of, seconds, switch
from serve_app.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine: its device, its share of memory, and the bounds of a step.

    Values may be text, as in command lines, files and the environment: `"24GiB"`. A new field here
    is an option of every command that opens or plans an engine, an argument of the Serve
    application, and a variable of its environment.

    Raises: ConfigError, with the field, the value and the allowed values.
    """

    device: Annotated[
        str,
        Setting(one_of("auto", "cpu", "cuda"), "NAME", "cpu, cuda, or auto: cuda if available."),
    ] = "auto"
    dtype: Annotated[
        str,
        Setting(
            one_of("auto", "float32", "bfloat16"),
            "NAME",
            "float32, bfloat16, or auto: bfloat16 if the release is stored so, else float32.",
        ),
    ] = "auto"
    device_memory: Annotated[
        int | None,
        Setting(
            num_bytes,
            "BYTES",
            "Most device memory to use, for example 24GiB or 500MB.",
            "90 % of the free memory on CUDA, no limit on the CPU",
        ),
    ] = None
    host_memory: Annotated[
        int | None,
        Setting(
            num_bytes,
            "BYTES",
            "Most host memory for copies of backbones (weights outside the experts).",
            "room for all of them",
        ),
    ] = None
    kv_tokens: Annotated[
        int | None,
        Setting(count, "N", "Size of the KV store, in tokens.", "what memory allows"),
    ] = None
    num_places: Annotated[
        int | None,
        Setting(
            count,
            "N",
            "Most backbones on the device at once, with those of a next release.",
            "what memory allows, at most one for each backbone and one more",
        ),
    ] = None
    step_tokens: Annotated[
        int, Setting(count, "N", "Most tokens in a step, over all sequences.")
    ] = 512
    max_sequences: Annotated[
        int, Setting(count, "N", "Most sequences that run at once; others wait.")
    ] = 64
    max_model_wait_s: Annotated[
        float,
        Setting(
            seconds,
            "S",
            "Seconds a model may wait before a place is cleared for it.",
        ),
    ] = 5.0
    min_residency_s: Annotated[
        float | None,
        Setting(
            seconds,
            "S",
            "Seconds a model has been on the device, at least, before its place is cleared.",
            "no minimum",
        ),
    ] = None
    max_batch_wait_s: Annotated[
        float,
        Setting(
            seconds,
            "S",
            "Seconds after which a batch request (service tier flex) counts as a standard one.",
        ),
    ] = 300.0
    prefix_cache: Annotated[
        bool,
        Setting(
            switch,
            "BOOL",
            "Reuse keys and values when prompts of a tenant to a model start alike.",
        ),
    ] = True
    cuda_graphs: Annotated[
        bool, Setting(switch, "BOOL", "On CUDA, record decode steps and replay them.")
    ] = True
    int8_activations: Annotated[
        bool,
        Setting(
            switch,
            "BOOL",
            "On x86 CPUs, multiply packed experts by 8-bit activations where that costs little.",
        ),
    ] = True
    plan_ahead: Annotated[
        bool | None,
        Setting(switch, "BOOL", "Launch a step while the one before it runs.", "only on CUDA"),
    ] = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            try:
                object.__setattr__(self, field.name, SETTINGS[field.name].read(value))
            except ValueError as error:
                raise ConfigError(f"{field.name}: {error}") from error


SETTINGS: Mapping[str, Setting] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(EngineConfig, include_extras=True).items()
}
"""The setting of each field of `EngineConfig`, by name."""
