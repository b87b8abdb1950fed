"""Which process is what, and how much processor time it has taken."""

import os
import subprocess
import sys
import time

import pytest

from serve_app.bench.http.processor_time import Process, parts, processor_s, running

TREE = [
    Process(1, 0, "init"),
    Process(10, 1, "python expertpool bench http"),
    Process(11, 10, "/site-packages/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp/x"),
    Process(12, 10, "/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=x"),
    Process(13, 12, "ray::DashboardAgent"),
    Process(14, 12, "ray::ServeReplica:expertpool:Engine"),
    Process(15, 14, "python -c from multiprocessing.spawn import spawn_main"),
    Process(16, 12, "ray::ServeReplica:expertpool:Ingress"),
    Process(17, 12, "ray::ServeController"),
    Process(18, 10, "python -c from multiprocessing.spawn import spawn_main"),
    Process(19, 10, "python -c from multiprocessing.resource_tracker import main"),
    Process(20, 10, "python /site-packages/ray/_private/log_monitor.py --session-dir=x"),
    Process(30, 1, "ray::ServeReplica:expertpool:Engine"),
]


def test_the_processes_of_an_endpoint_are_told_apart_and_strangers_left_out() -> None:
    assert parts(10, 18, TREE) == {
        10: "this command",
        11: "gcs_server",
        12: "raylet",
        13: "Ray's agents",
        14: "engine",
        15: "text",
        16: "ingress",
        17: "Serve's controller",
        18: "client",
        19: "other",
        20: "Ray's agents",
    }


def test_this_process_and_its_parent_are_found_among_those_that_run() -> None:
    found = {process.pid: process for process in running()}
    assert found[os.getpid()].parent == os.getppid()


def test_the_processor_time_of_another_process_is_read_and_grows_as_it_works() -> None:
    working = "import time\nwhile True: time.process_time()"
    with subprocess.Popen([sys.executable, "-c", working]) as process:
        try:
            before = processor_s([process.pid])[process.pid]
            deadline = time.monotonic() + 20.0
            while processor_s([process.pid])[process.pid] < before + 0.02:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
    assert processor_s([process.pid]) == {}


def test_ones_own_processor_time_is_that_of_the_interpreter() -> None:
    before = time.process_time()
    told = processor_s([os.getpid()])[os.getpid()]
    assert before <= told <= time.process_time()
    assert told == pytest.approx(before, abs=0.05)
