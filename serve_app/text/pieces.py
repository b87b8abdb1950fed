"""The bytes that one token stands for. Not text: a character may take several tokens."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def characters_of_bytes() -> dict[int, str]:
    """The alphabet of byte-level BPE (GPT-2): a printable character for each of 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return table


@cache
def _bytes_of_characters() -> dict[str, int]:
    return {character: byte for byte, character in characters_of_bytes().items()}


class Pieces:
    """What the tokens of one vocabulary stand for, according to its decoder.

    `decoder` is the decoder part of a `tokenizer.json`, `added` the ids whose text is verbatim.
    """

    def __init__(self, decoder: Mapping[str, Any] | None, added: frozenset[int]) -> None:
        kinds = parts_of(decoder)
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


def parts_of(component: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Of a decoder, a normalizer or a pre-tokenizer of a `tokenizer.json`, in their order."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    for several in ("decoders", "normalizers", "pretokenizers"):
        if several in component:
            return [part for each in component[several] for part in parts_of(each)]
    return []


def readable(piece: bytes) -> str:
    """A token as OpenAI writes it in logprobs: its text, or its bytes if they are not text."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
