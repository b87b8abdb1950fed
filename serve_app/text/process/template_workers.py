"""The text process's side of those that render chat templates and check grammars. Does neither."""

import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from serve_app.errors import BadGrammar
from serve_app.text.chat_template import ChatTemplate
from serve_app.text.errors import TextError
from serve_app.text.process.frames import Frames, frame
from serve_app.text.process.template_worker import PID, Outcome, Task
from serve_app.text.template_limits import TemplateLimits

_SLOW_S = 0.5
"""A template that takes longer goes on at the lowest priority."""
_MOST_IDLE = 4
_LARGE = 2**20
"""After so many bytes a worker ends: what it freed may still be its own."""


class WorkerEnded(Exception):
    """A worker has ended, or was ended as it did not answer."""


class _Spent(Exception):
    """Text or grammar took more than it may have, as this says."""


class Workers(Protocol):
    """What is done where it can be ended."""

    def render(
        self,
        template: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> str:
        """A conversation as text. Raises TextError, which says what the template did."""
        ...

    def source(self, kind: str, value: Any) -> str:
        """A grammar that compiles: see `checked_source`. Raises BadGrammar."""
        ...


class TemplateWorkers:
    """From any thread. control: see `fork_workers`.

    Workers do nothing but wait for a conversation, so one that was slow, lacked memory or had a
    long text is let go, and the next is new.
    """

    def __init__(self, control: socket.socket, limits: TemplateLimits) -> None:
        self._control = control
        self._limits = limits
        self._lock = threading.Lock()
        self._forking = threading.Lock()
        self._idle: list[_Worker] = []

    def render(
        self,
        template: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> str:
        """See `Workers`. Raises ConnectionError if there can be no more workers."""
        asked = template.source, dict(template.special), messages, variables
        try:
            kind, text = self._outcome("render", asked)
        except ValueError as error:
            raise TextError("cannot be given what is nested so deeply") from error
        except _Spent as error:
            raise TextError(str(error)) from error
        if kind == "refused":
            raise TextError(f"refused the messages: {text}")
        return text

    def source(self, kind: str, value: Any) -> str:
        """See `Workers`. Raises ConnectionError if there can be no more workers."""
        try:
            outcome, text = self._outcome("check", (kind, value))
        except _Spent as error:
            raise BadGrammar(f"compiling it {error}") from error
        if outcome == "refused":
            raise BadGrammar(text)
        return text

    def _outcome(self, task: Task, asked: Any) -> Outcome:
        """Raises _Spent, and ValueError for what cannot be handed over."""
        question = frame((task, asked))
        for _ in range(2):  # an innocent one may have met a worker that somebody has ended
            begun = time.monotonic()
            with suppress(WorkerEnded):
                outcome = self._ask(question)
                if outcome[0] == "memory":
                    raise _Spent(f"needs more than {self._limits.memory} bytes of memory")
                return outcome
            if time.monotonic() - begun >= self._limits.seconds:
                raise _Spent(f"did not end within {self._limits.seconds:g} s")
        raise _Spent("ended the process that it ran in")

    def _ask(self, question: bytes) -> Outcome:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or self._fork()
        try:
            outcome = worker.ask(question, 5 * self._limits.seconds)
        except BaseException:
            worker.close()
            raise
        large = len(question) + len(outcome[1]) > _LARGE
        with self._lock:
            if worker.is_slow or large or outcome[0] == "memory" or len(self._idle) >= _MOST_IDLE:
                worker.close()
            else:
                self._idle.append(worker)
        return outcome

    def _fork(self) -> "_Worker":
        ours, its = socket.socketpair()
        with its, self._forking:
            socket.send_fds(self._control, [b"."], [its.fileno()])
            told = self._control.recv(PID.size, socket.MSG_WAITALL)
        if len(told) < PID.size:
            raise ConnectionError("what forks processes for chat templates has ended")
        return _Worker(ours, PID.unpack(told)[0])


class _Worker:
    """One process, for one thread at a time."""

    def __init__(self, connected: socket.socket, pid: int) -> None:
        self._socket = connected
        self._pid = pid
        self.is_slow = False

    def ask(self, question: bytes, longest_s: float) -> Outcome:
        """Raises WorkerEnded; it ends after `longest_s`."""
        end = time.monotonic() + longest_s
        self._socket.settimeout(longest_s)
        frames = Frames()
        try:
            self._socket.sendall(question)
            self._socket.settimeout(min(_SLOW_S, longest_s))
            while data := self._received(end):
                answers: list[Outcome] = frames.feed(data)
                if answers:
                    return answers[0]
        except OSError as error:
            raise WorkerEnded from error
        raise WorkerEnded

    def _received(self, end: float) -> bytes:
        """Nothing at the end. Raises TimeoutError, with the process ended."""
        while True:
            try:
                return self._socket.recv(1 << 20)
            except TimeoutError:
                left = end - time.monotonic()
                with suppress(ProcessLookupError):
                    if left <= 0:
                        os.kill(self._pid, signal.SIGKILL)
                        raise
                    os.setpriority(os.PRIO_PROCESS, self._pid, 19)
                self.is_slow = True
                self._socket.settimeout(left)

    def close(self) -> None:
        """It ends when it next reads."""
        self._socket.close()
