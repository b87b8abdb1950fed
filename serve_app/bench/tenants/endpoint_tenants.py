"""An endpoint with tenants, for a benchmark: a keys file with limits, and usage records."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serve_app.bench.http.local_endpoint import Kept
from serve_app.tenants.key_changes import Wanted, with_new_key
from serve_app.tenants.keys_file import KeysFile, Limits
from serve_app.tenants.keys_store import KeysStore

PLENTY = 10**9
"""A limit that is counted and never reached."""


@contextmanager
def tenants(*names: str) -> Iterator[Mapping[str, Kept]]:
    """By name: the same files, and each tenant's own key. They are gone after the block.

    Every limit is set, so that every one is counted, but none is reached.
    """
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as place:
        address, usage = f"{place}/keys.yaml", f"{place}/usage"
        Path(usage).mkdir()
        limits = Limits(
            requests_per_minute=PLENTY,
            tokens_per_minute=PLENTY,
            concurrent_requests=PLENTY,
            monthly_tokens=PLENTY,
        )
        file, found = KeysFile(), {}
        for name in names:
            file, key = with_new_key(file, Wanted(name, limits=limits))
            found[name] = Kept({"keys": address, "usage": usage}, key)
        KeysStore(address).change(lambda _: file)
        yield found
