"""Starts a Ray of our own without what nobody here looks at: its dashboard, metrics and watchers.

Ray has no setting for them. Together they take a sixth of the processor time of a start, and the
other processes wait for two of them. What runs is what an installation without `ray[default]` has,
less three processes that only report: tasks and actors need none of them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

UNNEEDED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's node that start the autoscaler, what copies logs to a driver, the dashboard."""
COMMAND = "_build_python_executable_command_memory_profileable"
"""The function of Ray's services that says how each of its programs is started."""
AGENT = "dashboard_agent"
QUIET = str(Path(__file__).with_name("ray_agent.py"))
"""Starts that program without what it reports."""


@contextmanager
def few_parts() -> Iterator[None]:
    """Inside the block, `ray.init` starts only the processes that run tasks and actors.

    What another version of Ray calls otherwise is started as there.
    """
    node: Any = import_module("ray._private.node").Node
    services: Any = import_module("ray._private.services")
    with ExitStack() as undone:
        for name in UNNEEDED:
            if hasattr(node, name):
                undone.enter_context(patch.object(node, name, _start_nothing))
        if hasattr(services, COMMAND):
            made = getattr(services, COMMAND)

            def command(part: str, *rest: Any, **options: Any) -> list[str]:
                plain: list[str] = made(part, *rest, **options)
                return [*plain, "-P", QUIET] if part == AGENT else plain

            undone.enter_context(patch.object(services, COMMAND, command))
        yield


def _start_nothing(_: Any, **__: Any) -> None:
    """In place of a method that starts a process."""
