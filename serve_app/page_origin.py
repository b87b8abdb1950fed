"""Parses the origin of a web page: scheme, host and perhaps port, as browsers send it."""

import re

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def origin(value: object) -> str:
    """Raises ValueError for what no browser sends, so that it would never match. `*` is any."""
    text = str(value)
    if text == "*":
        return text
    if not _ORIGIN.fullmatch(text):
        raise ValueError(
            f"{text!r} is not an origin: give scheme://host or scheme://host:port in small letters,"
            " and nothing behind it, or *"
        )
    port = _DEFAULT_PORTS.get(text.partition("://")[0])
    if port and text.endswith(port):
        raise ValueError(f"{text!r}: browsers leave out the port {port[1:]}")
    return text
