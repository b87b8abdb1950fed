"""Sends one request, from a process of its own. Makes no body."""

import http.client
import time


def sent(port: int, path: str, body: bytes) -> tuple[int, str, float, float]:
    """-> status, answer in short, when it was sent, and when it was answered."""
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    begun = time.monotonic()
    asked.request("POST", path, body, {"content-type": "application/json"})
    answer = asked.getresponse()
    read = answer.read()
    ended = time.monotonic()
    asked.close()
    return answer.status, read[:200].decode(errors="replace"), begun, ended
