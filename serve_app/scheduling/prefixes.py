"""Names for what KV blocks hold. Counts no blocks.

Keys and values at a position depend on the model and on all tokens up to it. So a full block is
named by a chain of digests over the tokens up to its end, which begins with release, model and
tenant. The digest is keyed by a secret of the process: nobody can say what another tenant's
blocks are named, and by how fast an answer comes learn what that tenant asked.
"""

from array import array
from hashlib import blake2b

from serve_app.scheduling.ledgers.blocks import ContentKey
from serve_app.scheduling.sequence import Sequence

_DIGEST_BYTES = 16


class Prefixes:
    """Names of the blocks of sequences. secret: at most 64 bytes."""

    def __init__(self, secret: bytes, block_size: int) -> None:
        self._secret = secret
        self._block_size = block_size

    def keys(self, sequence: Sequence, num_blocks: int) -> list[ContentKey]:
        """Of its first blocks, all tokens of which are known; the sequence remembers them."""
        release = sequence.model[0]
        known = sequence.prefix_keys
        for index in range(len(known), num_blocks):
            start = index * self._block_size
            tokens = array("q", sequence.tokens[start : start + self._block_size])
            before = known[-1][1] if known else self._root(sequence)
            digest = blake2b(before + tokens.tobytes(), digest_size=_DIGEST_BYTES).digest()
            known.append((release, digest))
        return known[:num_blocks]

    def _root(self, sequence: Sequence) -> bytes:
        whose = repr((*sequence.model, sequence.tenant)).encode()
        return blake2b(whose, key=self._secret, digest_size=_DIGEST_BYTES).digest()
