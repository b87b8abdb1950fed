"""Commands that use the engine: plan its memory, serve, demonstrate. They build no release."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import output
from serve_app.cli.options import (
    Channel,
    DeviceMemory,
    Family,
    HostMemory,
    NoCudaGraphs,
    RegistryUrl,
    parse_port,
)
from serve_app.cli.releases import open_registry, resolve
from serve_app.units import size

if TYPE_CHECKING:
    from serve_app.engine.memory import MemoryPlan


class Device(StrEnum):
    """Where the engine runs."""

    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """What the engine computes in. `auto`: as the release is stored, where the device can."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Port = Annotated[
    int, typer.Option("--port", metavar="N", parser=parse_port, help="Port to listen on.")
]


def plan_memory(
    family: Family,
    registry: RegistryUrl,
    device_memory: DeviceMemory = None,
    host_memory: HostMemory = None,
    no_cuda_graphs: NoCudaGraphs = False,
) -> None:
    """Say what serving will allocate, or that it does not fit.

    The release is the stable channel's, or the newest; the settings are those that `serve` has
    unless told otherwise.
    """
    from consolidation.release import ReleaseReader
    from serve_app.config import ServeConfig
    from serve_app.engine import memory
    from serve_app.serving.assembly import resolve_device

    opened = open_registry(registry, family)
    release = resolve(opened, None)
    settings = ServeConfig(
        registry=registry,
        family=family,
        device_memory=device_memory,
        host_memory=host_memory,
        cuda_graphs=not no_cuda_graphs,
    )
    plan = memory.plan_memory(
        ReleaseReader(opened, release),
        device=resolve_device(settings.device),
        dtype=settings.dtype,
        device_memory=settings.device_memory,
        limits=memory.Limits(
            max_tokens=settings.max_tokens,
            max_sequences=settings.max_sequences,
            max_model_wait_s=settings.max_model_wait_s,
        ),
        cuda_graphs=settings.cuda_graphs,
        host_memory=settings.host_memory,
    )
    _print_plan(release, plan)


def _print_plan(release: str, plan: MemoryPlan) -> None:
    of = f"{plan.num_places} of {plan.num_backbones}"
    rows = (
        ("pool", plan.pool_bytes, f"{sum(plan.num_slots)} slots in {len(plan.num_slots)} layers"),
        (
            "backbones",
            plan.backbones_bytes,
            f"places for {of}, {size(plan.place_bytes)} each",
        ),
        ("KV", plan.kv_bytes, f"{plan.kv_tokens} tokens in blocks of {plan.block_size}"),
        *(
            [
                ("attention", plan.attention_bytes, "the most that its kernels keep"),
                ("captures", plan.captures_bytes, "the most that captured steps keep"),
            ]
            if plan.kept_bytes
            else []
        ),
        ("workspace", plan.workspace_bytes, "the most that a step is expected to take"),
        ("total", plan.total_bytes, f"in {plan.dtype}"),
    )
    grid = output.table("", "bytes", "", "")
    grid.columns[3].justify = "left"
    for name, num_bytes, words in rows:
        grid.add_row(name, str(num_bytes), size(num_bytes), words)
    if plan.device_memory is not None:
        grid.add_row("spare", str(plan.spare_bytes), size(plan.spare_bytes), "left free")
        memory = size(plan.device_memory)
        grid.add_row("device", str(plan.device_memory), memory, "what there is")
    if plan.host_bytes:
        host = size(plan.host_bytes)
        of = f"{plan.num_copies} of {plan.num_backbones}"
        words = f"copies of {of} backbones; on the CPU mapped from a local registry"
        grid.add_row("host", str(plan.host_bytes), host, words)
    out = output.out()
    out.print(f"release {release}")
    out.print(grid)


def serve(
    family: Family,
    registry: RegistryUrl,
    channel: Channel = "stable",
    port: Port = 8000,
    device: Annotated[
        Device | None,
        typer.Option(show_default=False, help="Default: cuda where there is one, else cpu."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="What to compute in.")] = Dtype.AUTO,
    device_memory: DeviceMemory = None,
    host_memory: HostMemory = None,
    no_prefix_cache: Annotated[
        bool, typer.Option("--no-prefix-cache", help="Compute the beginning of every prompt anew.")
    ] = False,
    no_cuda_graphs: NoCudaGraphs = False,
) -> None:
    """Serve every model of a channel's release behind one OpenAI-compatible endpoint."""
    from serve_app.config import ServeConfig, UserConfig
    from serve_app.serving.run import run

    opened = open_registry(registry, family)
    if opened.channel(channel) is None:
        output.err().print(f"channel {channel!r} points at nothing yet", soft_wrap=True)
    config = ServeConfig(
        registry=registry,
        family=family,
        device=device.value if device else "auto",
        dtype=dtype.value,
        device_memory=device_memory,
        host_memory=host_memory,
        prefix_cache=not no_prefix_cache,
        cuda_graphs=not no_cuda_graphs,
    )
    run(config, UserConfig(channel=channel), port, on_started=_say_where)


def _say_where(address: str) -> None:
    words = f"{address}/v1 is there; {address}/ready says when a release serves"
    output.err().print(words, soft_wrap=True)


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the table.")] = False,
) -> None:
    """Make a small family, consolidate it, serve it, and ask every model."""
    from serve_app.demo.demo import run

    raise typer.Exit(run(once))
