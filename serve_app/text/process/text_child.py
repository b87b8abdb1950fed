"""The text process itself: reads turns from its parent, answers them, and ends with its parent.

Started as `python -m serve_app.text.process.text_child FD DIRECTORY`: the number of a connected
socket, and the directory of the tokenizers' files. Decides nothing about texts.
"""

import logging
import os
import shutil
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from serve_app.text.process.frames import Frames, frame

if TYPE_CHECKING:
    from serve_app.text.process.text_messages import Answer, Turn
    from serve_app.text.process.text_server import TextServer

_LONG_QUESTION = 20_000
"""Questions of more bytes have a thread of their own, so that short ones need not wait for them."""
_SWITCH_S = 0.0005
"""How long another thread keeps the interpreter when the one that decodes wants it."""


class _Child:
    """Turns are answered by the thread that reads them, questions by two others."""

    def __init__(self, parent: socket.socket, server: "TextServer") -> None:
        self._parent = parent
        self._server = server
        self._writing = threading.Lock()
        self._short = ThreadPoolExecutor(1, "short-texts")
        self._long = ThreadPoolExecutor(1, "long-texts")

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
        for number, question in turn["questions"]:
            lane = self._long if len(question) > _LONG_QUESTION else self._short
            lane.submit(self._reply, number, question)

    def _reply(self, number: int, question: bytes) -> None:
        self._send({"said": None, "reply": self._server.reply(number, question)})

    def _send(self, answer: "Answer") -> None:
        message = frame(answer)
        with self._writing:
            self._parent.sendall(message)


def main() -> None:
    """Never returns: a thread that is still at a text must not keep the process alive."""
    logging.basicConfig(level=logging.WARNING)
    sys.setswitchinterval(_SWITCH_S)
    try:
        _Child(socket.socket(fileno=int(sys.argv[1])), _server()).run()
    except ConnectionError:
        pass  # as good as closed
    except BaseException:
        logging.exception("the text process ends")
        os._exit(1)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    os._exit(0)


def _server() -> "TextServer":
    """transformers imports torch if it can. Here that would take two seconds and 200 MB, for
    nothing.
    """
    modules: dict[str, Any] = vars(sys)["modules"]
    modules["torch"] = None
    from serve_app.text.process.text_server import TextServer

    return TextServer()


if __name__ == "__main__":
    main()
