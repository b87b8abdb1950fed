"""What holds for all tests: their process, one thread, when garbage is looked for, patience."""

import gc
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings

# Machines are busy at times, so no example has to be quick.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# Before torch is imported, here and in processes that tests start. Tiny models gain nothing from a
# second thread, which waits for work by spinning. Tests of several threads say how many.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """File by file, where tests are to go to processes by group."""
    if config.getoption("dist") != "loadgroup":
        return None
    from tests.support.file_groups import FileByFile

    return FileByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def imports_are_not_looked_through() -> Iterator[None]:
    """Garbage is collected often: half a second with all of torch and transformers."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Garbage stays while a failure is told.

    Python 3.11 cannot parse while it parses (cpython's issue 106905). A report parses the sources
    of its traceback. Garbage that is found amid that may log a traceback, which parses again: then
    pytest itself ends, and no later test runs.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
