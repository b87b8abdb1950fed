"""Reads one long body in a process of its own: from stdin, its JSON object to stdout.

Started with what no model takes, as JSON, if that is known: see `most_tokens`.

So neither the time nor the memory that this takes are the ingress's. Started by `long_bodies`.
"""

import json
import marshal
import sys
from typing import Any

from serve_app.api.requests.body import json_object
from serve_app.api.requests.most_tokens import check_lengths
from serve_app.protocol.errors import ProtocolError


def main() -> None:
    """Writes the object, or why there is none; see `long_bodies`."""
    read = sys.stdin.buffer.read()
    found: list[Any]
    try:
        fields = json_object(read)
        if len(sys.argv) > 1:
            check_lengths(fields, json.loads(sys.argv[1]))
        found = [fields, None]
    except ProtocolError as error:
        found = [None, error.to_item()]
    sys.stdout.buffer.write(marshal.dumps(found))


if __name__ == "__main__":
    main()
