"""Processes that render chat templates and check grammars, forked by one that has no threads.

Either may take all the time and memory there is, in a single call that nothing interrupts. So it
runs in a process that the kernel ends after some seconds, and whose memory is limited. Forking
one takes 2 ms, as all that it needs was imported before.
"""

import gc
import logging
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from serve_app.errors import BadGrammar, where
from serve_app.grammar.vocabulary import checked_source
from serve_app.text.chat_template import ChatTemplate, render
from serve_app.text.process.frames import frame, read_packed, unpack
from serve_app.text.template_limits import TemplateLimits

_log = logging.getLogger(__name__)
PID = struct.Struct("<q")
_LONGEST_REASON = 300
Outcome = tuple[Literal["text", "refused", "memory"], str]
"""What became of it: the text of a template or a grammar; or why there is none; or it lacked
memory."""
Task = Literal["render", "check"]


def fork_workers(limits: TemplateLimits) -> socket.socket:
    """Forks a process that forks workers. To be called before there are threads, and once what
    `render` imports is there.

    It takes sockets from the one that is returned, and answers each with the id of a process that
    works for whoever has the other end. All end when what they read from is closed. Descriptors
    from 3 on are closed there: what another process waits for must end with this one.
    """
    ours, its = socket.socketpair()
    if os.fork() == 0:
        _only(partial(_fork_workers, its, limits))
    its.close()
    return ours


def _fork_workers(control: socket.socket, limits: TemplateLimits) -> None:
    _keep_only(control.fileno())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a worker ended
    gc.freeze()
    while True:
        told, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not told:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _only(partial(_work, socket.socket(fileno=descriptors[0]), limits))
        os.close(descriptors[0])
        control.sendall(PID.pack(pid))


def _work(parent: socket.socket, limits: TemplateLimits) -> None:
    """Answers what is asked until the other end is closed."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    questions: BinaryIO = parent.makefile("rb")
    before = resource.getrlimit(resource.RLIMIT_AS)
    while packed := read_packed(questions):
        _limit_memory(size + limits.memory + 8 * len(packed), before)
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)  # then the kernel ends this process
        try:
            answer = frame(_outcome(packed, limits))
        except MemoryError:
            answer = frame(("memory", ""))
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        parent.sendall(answer)


def _limit_memory(size: int, before: tuple[int, int]) -> None:
    """Of the address space, in bytes; at most what it was limited to before (−1: not at all)."""
    least = min([size, *(most for most in before if most >= 0)])
    resource.setrlimit(resource.RLIMIT_AS, (least, before[1]))


def _outcome(packed: bytes, limits: TemplateLimits) -> Outcome:
    task: Task
    task, asked = unpack(packed)
    if task == "check":
        return _checked(*asked)
    source, special, messages, variables = asked
    try:
        text = render(ChatTemplate(source, special), messages, variables)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  the template is a program of strangers
        return "refused", f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
    if len(text) > limits.characters:
        return "refused", f"it writes {len(text)} characters, of at most {limits.characters}"
    return "text", text


def _checked(kind: str, value: object) -> Outcome:
    try:
        return "text", checked_source(kind, value)
    except BadGrammar as error:
        return "refused", str(error)[:_LONGEST_REASON]


def _only(work: Callable[[], None]) -> NoReturn:
    """In a process that was forked: this and nothing else."""
    try:
        work()
    except ConnectionError:
        pass  # who asked has ended
    except Exception as error:  # noqa: BLE001  the other end sees that there is no answer
        _log.error("a process for chat templates ends: %s", where(error))
    finally:
        os._exit(0)


def _keep_only(descriptor: int) -> None:
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
