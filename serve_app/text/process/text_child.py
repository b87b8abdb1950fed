"""The text process itself: reads turns from its parent, answers them, and ends with its parent.

Started as `python -m serve_app.text.process.text_child FD DIRECTORY SECONDS BYTES`: the number of
a connected socket, the directory of the tokenizers' files, and the limits of chat templates.
Decides nothing about texts.
"""

import logging
import os
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from representation.freed_memory import give_back
from serve_app.garbage import set_aside
from serve_app.logs.log_writing import write_lines_as_parent
from serve_app.text.errors import TextUnavailable
from serve_app.text.process.frames import Frames, frame
from serve_app.text.process.text_messages import failed
from serve_app.text.template_limits import TemplateLimits

if TYPE_CHECKING:
    from serve_app.text.process.text_messages import Answer, Turn
    from serve_app.text.process.text_server import TextServer

_log = logging.getLogger("serve_app.text.process.text_child")
"""By this name when it is the main module, too."""
_WAIT_S = 30.0
"""A question that has waited for so long, as a template is slow, is not answered any more."""
_LARGE = 2**20
"""After a question of so many bytes, the memory that it took is given back."""
_SWITCH_S = 0.0005
"""How long another thread keeps the interpreter when the one that decodes wants it."""


class _Child:
    """Turns are answered by the thread that reads them, questions by one for each lane."""

    def __init__(self, parent: socket.socket, server: "TextServer") -> None:
        self._parent = parent
        self._server = server
        self._writing = threading.Lock()
        self._lanes: dict[str, ThreadPoolExecutor] = {}

    def run(self) -> None:
        """Until the parent has closed its end."""
        frames = Frames()
        while data := self._parent.recv(1 << 18):
            for turn in frames.feed(data):
                self._turn(turn)

    def _turn(self, turn: "Turn") -> None:
        said = self._server.turn(turn)
        if turn["opened"] or turn["prompts"] or turn["tokens"]:
            self._send({"said": said, "reply": None})
        for number, lane, question in turn["questions"]:
            if lane not in self._lanes:
                self._lanes[lane] = ThreadPoolExecutor(1, lane)
            self._lanes[lane].submit(self._reply, number, question, time.monotonic())

    def _reply(self, number: int, question: bytes, since: float) -> None:
        if time.monotonic() - since > _WAIT_S:
            reply = failed(number, TextUnavailable("earlier requests take too long"))
        else:
            try:
                reply = self._server.reply(number, question)
            except ConnectionError:
                _log.exception("the text process ends")
                os._exit(1)
        self._send({"said": None, "reply": reply})
        if len(question) > _LARGE:
            give_back()

    def _send(self, answer: "Answer") -> None:
        message = frame(answer)
        with self._writing:
            self._parent.sendall(message)


def main() -> None:
    """Never returns: a thread that is still at a text must not keep the process alive."""
    write_lines_as_parent("text", "warning")
    sys.setswitchinterval(_SWITCH_S)
    try:
        limits = TemplateLimits(float(sys.argv[3]), int(sys.argv[4]))
        _Child(socket.socket(fileno=int(sys.argv[1])), _server(limits)).run()
    except ConnectionError:
        pass  # as good as closed
    except BaseException:  # noqa: BLE001  whatever it is, it is said, and the process ends
        _log.exception("the text process ends")
        os._exit(1)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    os._exit(0)


def _server(limits: TemplateLimits) -> "TextServer":
    """transformers imports torch if it can. Here that would take two seconds and 200 MB, for
    nothing.
    """
    modules: dict[str, Any] = vars(sys)["modules"]
    modules["torch"] = None
    import transformers.utils.chat_template_utils  # noqa: F401  for all workers at once

    import serve_app.grammar.vocabulary  # noqa: F401  and this
    from serve_app.text.process.template_worker import fork_workers

    control = fork_workers(limits)
    from serve_app.text.process.template_workers import TemplateWorkers
    from serve_app.text.process.text_server import TextServer

    set_aside()
    return TextServer(TemplateWorkers(control, limits))


if __name__ == "__main__":
    main()
