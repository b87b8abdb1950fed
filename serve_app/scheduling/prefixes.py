"""Names the content of KV blocks. Counts no blocks.

Keys and values at a position depend on the model and on all tokens up to it. So a full block is
named by a chain of digests over the tokens up to its end, which begins with release, model and
tenant. The digest is keyed with a secret of the process: nobody can work out the names of
another tenant's blocks, and learn from the speed of an answer what that tenant asked.
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
        """The names of its first blocks with only known tokens; the sequence caches them."""
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
