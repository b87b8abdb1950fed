"""The bytes that one token stands for. Not text: a character may take several tokens."""

import json
import re
from functools import cache
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def _bytes_of_characters() -> dict[str, int]:
    """The alphabet of byte-level BPE (GPT-2): a printable character for each of 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table


class Pieces:
    """What the tokens of one vocabulary stand for, according to its decoder.

    `decoder` is the decoder part of a `tokenizer.json`, `added` the ids whose text is verbatim.
    """

    def __init__(self, decoder: dict[str, Any] | None, added: frozenset[int]) -> None:
        kinds = list(_flatten(decoder))
        self._byte_level = any(kind["type"] == "ByteLevel" for kind in kinds)
        self._byte_fallback = any(kind["type"] == "ByteFallback" for kind in kinds)
        self._spaces = {"▁"} if any(kind["type"] == "Metaspace" for kind in kinds) else set[str]()
        for kind in kinds:
            if kind["type"] == "Replace" and kind.get("content") == " ":
                self._spaces.add(str(kind["pattern"].get("String", "")))
        self._added = added

    @property
    def facts(self) -> tuple[bool, bool, list[str], list[int]]:
        """All that the bytes of a symbol depend on."""
        return self._byte_level, self._byte_fallback, sorted(self._spaces), sorted(self._added)

    def to_bytes(self, token: int, symbol: str) -> bytes:
        """`symbol`: the token as the vocabulary writes it."""
        if token in self._added:
            return symbol.encode()
        if self._byte_level:
            table = _bytes_of_characters()
            if all(character in table for character in symbol):
                return bytes(table[character] for character in symbol)
            return symbol.encode()
        if self._byte_fallback and (byte := _BYTE_TOKEN.fullmatch(symbol)):
            return bytes([int(byte[1], 16)])
        for space in self._spaces:
            symbol = symbol.replace(space, " ") if space else symbol
        return symbol.encode()

    @classmethod
    def of_json(cls, tokenizer: str, added: frozenset[int]) -> "Pieces":
        """`tokenizer`: the text of a `tokenizer.json`."""
        return cls(json.loads(tokenizer).get("decoder"), added)


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [part for each in decoder["decoders"] for part in _flatten(each)]
    return [decoder]


def readable(piece: bytes) -> str:
    """A token as OpenAI writes it in logprobs: its text, or its bytes if they are not text."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
