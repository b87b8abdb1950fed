"""How the command ends: with its exit code, and with everything that it started."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

FAMILY = """
import subprocess, sys
from serve_app.cli import main, processes

# A child that leaves a grandchild behind, and one that does not listen.
ORPHAN = (
    "import subprocess; quiet = subprocess.DEVNULL;"
    "print(subprocess.Popen(['sleep', '60'], stdout=quiet, stderr=quiet).pid, flush=True)"
)
DEAF = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print(os.getpid(), flush=True); time.sleep(60)"
)

def start(arguments, interruption):
    orphan = subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, check=True)
    deaf = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    print(int(orphan.stdout), int(deaf.stdout.readline()), flush=True)
    if "wait" in arguments:
        deaf.wait()
    return 7

main.run = start
main.CHILDREN_GRACE_S = 0.3
main.main()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_no_child_outlives_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAMILY], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 7, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_every_child_and_is_the_exit_code(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY, "wait"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(is_running(pid) for pid in pids)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    assert not any(is_running(pid) for pid in pids)


def test_a_second_signal_does_not_break_the_way_out() -> None:
    program = (
        "import os, signal\n"
        "from serve_app.cli.processes import Interruption\n"
        "stopped = Interruption(); stopped.install()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "except KeyboardInterrupt:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(stopped.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "SIGTERM\n"
