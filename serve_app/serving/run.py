"""`expertpool serve`: one endpoint on this machine, until it is stopped. No command line."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from ipaddress import ip_address
from types import FrameType
from typing import Any

from serve_app.config import ServeConfig, UserConfig
from serve_app.errors import ConfigError
from serve_app.phase import phase
from serve_app.serving.terminal import Ears, Say, heard
from serve_app.serving.transport.told_ingresses import tell_ingresses
from serve_app.tenants.keys_store import KeysStore

Starting = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Given what to do while Ray starts: a context to start it in."""
_log = logging.getLogger(__name__)

_NAME = "expertpool"
_CORES_FOR_TWO = 4
"""From so many cores on, there are two ingresses: the other serves on when one dies."""
_WRITING_S = 5.0
"""How long to wait for the last records of usage."""
_CLOSING_S = 20.0
"""How much longer than its grace draining may take, to tell clients and write records."""
_WORKERS = 2
"""So many CPUs, as Ray sees it, and so many idle workers that it starts with: see `spare_imports`.
Nothing here reserves one.
"""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Messages of any length: then jobs and answers travel over Serve's gRPC (`HandleClient`).
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # One machine: Ray's node is 127.0.0.1, and what it starts listens there alone. Made for systems
    # whose firewalls ask about every other address; Ray obeys it everywhere.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Requests are routed on the ingress's own event loop: no hop between threads for each message.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Ray would start its workers at 15, where a consolidation beside them (19) still takes a third.
    "RAY_worker_niceness": "0",
    # Where a process has ended is said in one line (`terminal`); Ray's own paragraph stays away.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed while executing a task",
    # A line for each request: files of workers are begun anew at this size, and three are kept.
    "RAY_ROTATION_MAX_BYTES": str(100 * 2**20),
    "RAY_ROTATION_BACKUP_COUNT": "3",
    # A text process ends with its engine by itself, and removes its files then.
    "RAY_kill_child_processes_on_worker_exit": "0",
}
"""Environment of Ray's processes, unless it says otherwise. Ray reads it when it is imported."""
_EARLY = {"RAY_preload_python_modules": "serve_app.serving.spare_imports"}
"""Of the Ray that an endpoint starts alone: the worker that will hold the engine imports what that
needs while Serve starts.
"""
_SPARE = {"EXPERTPOOL_SPARE": "1"}
"""Where a spare worker is wanted, too: see `spare`."""


def _plainly(_: Callable[[], None]) -> AbstractContextManager[None]:
    return nullcontext()


def run(
    config: ServeConfig,
    user: UserConfig,
    port: int = 8000,
    *,
    host: str = "127.0.0.1",
    ingresses: int | None = None,
    on_started: Callable[[str], None] | None = None,
    say: Say | None = None,
    starting: Starting = _plainly,
) -> None:
    """Starts Ray and the endpoint, and blocks until SIGTERM, Ctrl-C or SIGHUP.

    Then it takes no new requests, running ones have `config.drain_s` to end, and everything ends.
    A second signal ends everything at once.

    ingresses: processes that answer on the port; None: two from four cores on, else one.
    on_started: called with the endpoint's address as soon as it answers (`/ready` says when a
    release is served). Raises ConfigError if the port is taken.
    say: called with a line for each thing that an operator should know, from any thread.
    starting: a context in which Ray is started.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        with (
            heard(say or _log.info) as ears,
            endpoint(
                config,
                user,
                port,
                host=host,
                ingresses=ingresses,
                keeps_spare=True,
                ears=ears,
                starting=starting,
            ) as address,
        ):
            if on_started is not None:
                on_started(address)
            wait_for_the_end(partial(_drain, config.drain_s))
    except KeyboardInterrupt:
        return  # stopped while it was starting


@contextmanager
def endpoint(
    config: ServeConfig,
    user: UserConfig,
    port: int = 8000,
    *,
    host: str = "127.0.0.1",
    ingresses: int | None = None,
    keeps_spare: bool = False,
    ears: Ears | None = None,
    starting: Starting = _plainly,
) -> Iterator[str]:
    """Runs the endpoint inside the block, on its own Ray. Yields its address.   See `run`.

    keeps_spare: have an idle process ready, in which an engine starts quickly if one dies.
    ears: of who wants to hear what its processes say.   starting: see `run`.
    """
    _check_device(config.engine.device)
    _check_keys(config, host)
    _check_free(host, port)
    if config.metrics_port:
        _check_free("127.0.0.1", config.metrics_port)
    tell: Say = _log.info if ears is None else ears.say
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)
    import ray

    try:
        with phase("starting Ray", tell) as so_far:
            logs = _start_ray(ray, starting, _EARLY | (_SPARE if keeps_spare else {}))
        tell(f"Ray runs after {so_far():.1f} s; whole logs are in {logs}")
        _restore(handlers)  # Ray replaces the handler of SIGTERM
        num = default_ingresses() if ingresses is None else ingresses
        with phase("starting the endpoint", tell) as so_far:
            _start_serve(config, user, (host, port), num)
        tell(f"the endpoint runs after {so_far():.1f} s")
        yield f"http://{host}:{port}"
    finally:
        if ears is not None:
            ears.expect_ends()
        _restore(handlers)
        if config.usage is not None and ray.is_initialized():
            tell_ingresses(_NAME, "write_usage", _WRITING_S)
        ray.shutdown()  # all of it: replicas and proxy are its children


def _start_serve(
    config: ServeConfig, user: UserConfig, listen: tuple[str, int], ingresses: int
) -> None:
    from ray import serve

    from serve_app.serving.app import application, with_absolute_paths

    _quieten()
    logs = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=logs)
    serve.run(
        application(with_absolute_paths(config), user, listen, ingresses),
        name=_NAME,
        route_prefix="/",
        logging_config=logs,
    )


def _start_ray(ray: Any, starting: Starting, early: Mapping[str, str]) -> str:
    """Returns where it keeps logs.   early: environment of its processes, unless it says otherwise.

    What it starts never gets SIGHUP, as it ignores Ctrl-C: a terminal sends both to all processes,
    and this one ends the others.
    """
    with _hangup_blocked(), _environment_with(early), starting(_import_serve):
        started = ray.init(
            address="local",
            num_cpus=_WORKERS,
            include_dashboard=False,
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
            namespace=_NAME,
        )
    return f"{started.address_info['session_dir']}/logs"


def _import_serve() -> None:
    """What comes next, on this core, while others start Ray."""
    import serve_app.serving.app  # noqa: F401


@contextmanager
def _environment_with(early: Mapping[str, str]) -> Iterator[None]:
    """Inside the block, this process's has these values too, where it does not say otherwise."""
    added = {name: value for name, value in early.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _hangup_blocked() -> Iterator[None]:
    """Processes that are started meanwhile never get SIGHUP; this one gets it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def default_ingresses() -> int:
    """How many processes answer on the port, unless somebody says."""
    return 2 if len(os.sched_getaffinity(0)) >= _CORES_FOR_TWO else 1


def _drain(grace_s: float) -> None:
    """Returns when the ingresses have answered what they had begun, or have ended it."""
    _log.warning(
        "draining: running answers have %g s to end; another signal ends them now", grace_s
    )
    tell_ingresses(_NAME, "drain", grace_s + _CLOSING_S)


def _quieten() -> None:
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)


def free_port(wanted: int = 0) -> int:
    """A free port on the loopback address: `wanted`, if that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"port {port} of {host} cannot be used: {error.strerror}") from error


def _check_device(wanted: str) -> None:
    """Raises ConfigError for one that is not there. Torch, which knows, takes seconds to import."""
    if wanted not in ("auto", "cpu"):
        from serve_app.engine.device.device import require_device

        require_device(wanted)


def _check_keys(config: ServeConfig, host: str) -> None:
    """Raises ConfigError if others could use the endpoint without a key, or keys are broken."""
    if config.keys is not None:
        KeysStore(config.keys).read_served(has_records=config.usage is not None)
    elif not config.insecure_no_keys and not _is_loopback(host):
        raise ConfigError(
            f"host {host}: without a keys file, the endpoint is for this machine alone; give --keys"
            " (`expertpool keys new` makes one), or --insecure-no-keys to let anybody use it"
        )


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. Raises ConfigError for a host that is unknown."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConfigError(f"host {host} is unknown: {error.strerror}") from error
    return all(ip_address(address[0]).is_loopback for *_, address in found)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def wait_for_the_end(drain: Callable[[], None]) -> None:
    """Waits for a signal, and drains. A second signal ends that. Then calls the handler that the
    caller has set for the first.
    """
    told: list[tuple[int, FrameType | None]] = []
    is_told = threading.Event()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def end(number: int, frame: FrameType | None) -> None:
        told.append((number, frame))
        is_told.set()
        if len(told) > 1:
            raise KeyboardInterrupt

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        while not is_told.wait(timeout=1.0):
            pass
        with suppress(KeyboardInterrupt):
            drain()
    finally:
        _restore(before)
    first, frame = told[0]
    handler = before[signal.Signals(first)]
    if callable(handler) and handler is not signal.default_int_handler:
        handler(first, frame)
