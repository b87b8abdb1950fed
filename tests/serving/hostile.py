"""Requests as bytes that no client would send, and how they are sent. Judges no answer."""

import random
import socket
from collections.abc import Callable, Iterator

PATHS = (
    *("/v1/completions", "/v1/chat/completions", "/v1/responses"),
    *("/v1/messages", "/v1/messages/count_tokens"),
    *("/tokenize", "/detokenize", "/health", "/x"),
)
FIELDS = (
    *("model", "prompt", "messages", "max_tokens", "n", "stop", "seed", "logit_bias", "priority"),
    *("tokens", "temperature", "top_k", "logprobs", "stream", "stop_token_ids", "user", "echo"),
    *("system", "tools", "tool_choice", "thinking", "stop_sequences", "output_config"),
    *("chat_template_kwargs", "stream_options", "metadata", "best_of", "min_tokens"),
    *("input", "instructions", "tools", "tool_choice", "reasoning", "text", "include"),
)
VALUES = (
    *("1e999", "-1e308", "9" * 400, "-" + "9" * 30, "0.1e-400", "1" * 5000, "NaN", "-0", "1e2"),
    *('"\\u0000"', '"\\ud800"', '"\\udc00x"', '"' + "\\u0001" * 50 + '"', '"a"', '""', "null"),
    *("[" * 3000 + "]" * 3000, '{"a":' * 900 + "1" + "}" * 900, "[[[]]]", "{}", "true", "[0,-1]"),
    *('[{"role":"user","content":"\\ud83d"}]', '[{"role":[],"content":{}}]', "[null]", "[1e400]"),
    *('{"1":1e999}', '{"٣":1}', '{"99999999999999999999":1}', '{"":0}', "2147483648", "1.0"),
)
BODIES = (
    *(
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b"\x00" * 50,
        b'{"model":"\xc3"}',
        b"\xef\xbb\xbf{}",
    ),
    *(b'{"model":"a","prompt":"x"}' + b" " * 5000, b'{"model":1}{"model":2}', b"9" * 6000),
)
HEADERS = (
    *(b"Content-Type: text/plain", b"Content-Type: application/json; charset=utf-16"),
    *(
        b"X-Request-Timeout-Seconds: nan",
        b"X-Request-Timeout-Seconds: 1e-9",
        b"Expect: 100-continue",
    ),
    *(b"X-Request-Id: " + b"a" * 5000, b"X-Request-Id: \xff\x01", b"Authorization: Bearer \xff"),
    *(b"X-Forwarded-For: ' OR 1=1", b"Range: bytes=0-", b"Upgrade: websocket", b"Upgrade: h2c"),
    *(
        b"Content-Encoding: gzip",
        b"Transfer-Encoding: identity",
        b"Host: a",
        b"Cookie: " + b"c=" * 999,
    ),
)


def _body(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.choice(BODIES)
    fields = {"model": '"a"', "prompt": '"x"'} if chance.random() < 0.7 else {}
    for _ in range(chance.randrange(1, 4)):
        fields[chance.choice(FIELDS)] = chance.choice(VALUES)
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


def _plain(chance: random.Random) -> bytes:
    body = _body(chance)
    lines = [b"POST " + chance.choice(PATHS).encode() + b" HTTP/1.1", b"Connection: close"]
    lines += chance.sample(HEADERS, chance.randrange(0, 3))
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def _chunked(chance: random.Random) -> bytes:
    sizes = (
        b"5",
        b"0",
        b"-1",
        b"ffffffffffffffff",
        b"zz",
        b"5;x=y",
        b"",
        b"0x5",
        b" 5",
        b"7fffffff",
    )
    chunks = b"".join(chance.choice(sizes) + b"\r\nhello\r\n" for _ in range(3)) + b"0\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    return head + chance.choice((b"", b"Content-Length: 3\r\n")) + b"\r\n" + chunks


METHODS = (b"GET", b"PUT", b"TRACE", b"CONNECT", b"", b"\x00", b"G" * 300, b"PRI", b"HEAD")
TARGETS = (
    *(
        b"/health",
        b"*",
        b"",
        b"//",
        b"/%00",
        b"/%ff%fe",
        b"/../../etc/passwd",
        b"/v1/models/%c3%28",
    ),
    *(b"http://x/health", b"/" + b"a" * 9000, b"/v1/models/\xff", b"/admin/models/a/x", b"/?" * 99),
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"", b"HTTP/1.1\r\nHost: a b")


def _line(chance: random.Random) -> bytes:
    words = (chance.choice(METHODS), chance.choice(TARGETS), chance.choice(VERSIONS))
    return b" ".join(words) + b"\r\nConnection: close\r\n\r\n"


KINDS: tuple[Callable[[random.Random], bytes], ...] = (_plain, _plain, _plain, _chunked, _line)


def hostile_requests(number: int) -> Iterator[tuple[bytes, bool]]:
    """What to send, and whether it is a whole request, which must be answered."""
    chance = random.Random(12)
    for _ in range(number):
        kind = chance.choice(KINDS)
        sent = kind(chance)
        if chance.random() < 0.05:  # cut, or with something wrong in the middle
            at = chance.randrange(len(sent))
            yield sent[:at] + chance.choice((b"", b"\x00\r\n", b"\xff")) + sent[at + 1 :], False
        else:
            yield sent, kind is _plain


def answer(port: int, sent: bytes, *, is_whole: bool) -> bytes:
    """All that comes back. Raises TimeoutError if that has no end.

    For more of what is not whole, the server may wait until there cannot be more.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20 if is_whole else 0.05) as client:
        try:
            client.sendall(sent)
            while True:
                try:
                    more = client.recv(1 << 16)
                except TimeoutError:
                    if client.gettimeout() == 20:
                        raise
                    client.settimeout(20)
                    client.shutdown(socket.SHUT_WR)
                    continue
                if not more:
                    return received
                received += more
        except ConnectionError:
            return received  # it need not read to the end what it refuses
