"""How many tokens a text has at least, without encoding it. Never more than it really has.

A token stands for a run of units of the text: bytes for byte-level vocabularies, else characters.
Let each unit count as 1 divided by the length of the longest token that has such a unit in it. Then
the units of one token together count at most 1, and those of a text at most as much as it has
tokens. A unit counts 0 where it is not known to become part of a token of the vocabulary: one that
the vocabulary lacks, a character that a normalizer may join with another or take away, and white
space if a special token swallows what is around it.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy

from serve_app.text.pieces import characters_of_bytes, parts_of

_SLICE = 1 << 16
"""Characters that are counted at a time, which takes about a millisecond."""
_EXACT = 1.0 - 1e-9
"""Sums of as many fractions as there are in a text are off by less than this."""
_NUM_COUNTED = 0x10000
"""Characters from here on count 0."""
_JAMO = (range(0x1100, 0x1200), range(0xA960, 0xA980), range(0xD7B0, 0xD800))
"""Parts of Hangul syllables, which join to one."""
_SPLITTERS = ("ByteLevel", "Digits", "Metaspace", "Split")
"""Pre-tokenizers that leave nothing out, unless they say so."""
_Form = Literal["NFC", "NFKC"]
_FORMS: Mapping[str, _Form] = {"NFC": "NFC", "NFKC": "NFKC"}
_Table = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


class FewestTokens:
    """Counts the texts of one tokenizer."""

    def __init__(
        self,
        symbols: Iterable[str],
        added: Sequence[Mapping[str, Any]],
        *,
        is_byte_level: bool = False,
        replaced: Mapping[str, str] | None = None,
        form: _Form | None = None,
    ) -> None:
        """symbols: of the vocabulary.   added: tokens that are found in a text before it is split.
        replaced: what becomes of characters.   form: of Unicode, to which texts are brought first.
        """
        self._is_byte_level = is_byte_level
        self._replaced = replaced or {}
        self._form = form
        known = set(symbols)
        self._alone = frozenset(symbol for symbol in known if len(symbol) == 1)
        self._longest = _longest_by_unit(known)
        written = {each["content"] for each in added}
        if form is not None:
            written |= {unicodedata.normalize(form, each) for each in written}
        self._longest_added = max((len(f"▁{each}".encode()) for each in written), default=1)
        self._in_added = frozenset("".join(written))
        self._blanks_count = not any(each["lstrip"] or each["rstrip"] for each in added)
        self._weights: _Table | None = None

    @classmethod
    def of_json(cls, tokenizer: Mapping[str, Any]) -> "FewestTokens | None":
        """tokenizer: a `tokenizer.json`. None for one of a kind of which this knows nothing."""
        model = tokenizer["model"]
        splitters = parts_of(tokenizer.get("pre_tokenizer"))
        changes = parts_of(tokenizer.get("normalizer"))
        if model["type"] not in ("BPE", "Unigram"):
            return None
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            return None
        if any(each["type"] not in _SPLITTERS or _drops(each) for each in splitters):
            return None
        found = _normalization(changes)
        if found is None:
            return None
        form, replaced = found
        for each in splitters:
            if each["type"] == "Metaspace":
                replaced.setdefault(" ", each["replacement"])
        vocabulary = model["vocab"]
        return cls(
            vocabulary if model["type"] == "BPE" else [piece for piece, _ in vocabulary],
            tokenizer.get("added_tokens") or (),
            is_byte_level=any(each["type"] == "ByteLevel" for each in (*splitters, *changes)),
            replaced=replaced,
            form=form,
        )

    def count(self, text: str, enough: int) -> int:
        """`text` has at least so many tokens. Ends once there are more than `enough`."""
        if self._weights is None:
            self._weights = numpy.full(_NUM_COUNTED + 1, numpy.nan)
            self._weights[_NUM_COUNTED] = 0.0
        total = 0.0
        for begin in range(0, len(text), _SLICE):
            total += self._weigh(text[begin : begin + _SLICE], self._weights)
            if int(total * _EXACT) > enough:
                break
        return int(total * _EXACT)

    def of_bytes(self) -> list[float]:
        """256 numbers: a text has at least as many tokens as those of its bytes in UTF-8 add up to,
        less one for the end. For who has no tokenizer, so it counts less than `count`.
        """
        ascii_weights = [self._weight(chr(byte)) for byte in range(128)]
        return [each * _EXACT for each in ascii_weights + self._of_other_bytes(max(ascii_weights))]

    def _of_other_bytes(self, most: float) -> list[float]:
        """Of bytes from 128 on. most: that one of ASCII counts."""
        none = [0.0] * 128
        if self._form is not None:  # such a character may change the one before
            return none[:64] + [-most] * 64
        is_changed = any(not each.isascii() for each in self._replaced)
        if not self._is_byte_level or is_changed or not self._blanks_count:
            return none
        added = 1 if "".join(self._in_added).isascii() else self._longest_added
        symbols = [characters_of_bytes()[byte] for byte in range(128, 256)]
        return [
            1.0 / max(added, self._longest[each]) if each in self._alone else 0.0
            for each in symbols
        ]

    def _weigh(self, text: str, weights: _Table) -> float:
        """A character that the next one may change counts 0; the last of `text`, too."""
        encoded = text.encode("utf-32-le", "replace")
        codes = numpy.frombuffer(encoded, numpy.dtype("<u4")).clip(max=_NUM_COUNTED)  # (C,)
        found = weights[codes]  # (C,)
        unknown = numpy.unique(codes[numpy.isnan(found)]).tolist()
        if unknown:
            weights[unknown] = [self._weight(chr(code)) for code in unknown]
            found = weights[codes]
        if self._form is not None:
            found = found[:-1] * (found[1:] > 0)
        return float(found.sum())

    def _weight(self, character: str) -> float:
        """Of a character, wherever it is in a text."""
        if self._form is not None and not _stays(character, self._form):
            return 0.0
        if character.isspace() and not self._blanks_count:
            return 0.0
        became = self._replaced.get(character, character)
        may_be_added = any(each in self._in_added for each in character + became)
        added = self._longest_added if may_be_added else 1
        if self._is_byte_level:
            symbols = characters_of_bytes()
            units = [symbols[byte] for byte in became.encode()]
        else:
            units = list(became)
        return sum(1.0 / max(added, self._longest[unit]) for unit in units if unit in self._alone)


def _longest_by_unit(symbols: Iterable[str]) -> dict[str, int]:
    """For each character of the symbols, how long the longest is that it is in."""
    longest: dict[str, int] = {}
    seen = set[str]()
    for symbol in sorted(symbols, key=len, reverse=True):
        new = set(symbol) - seen
        if new:
            seen |= new
            longest.update(dict.fromkeys(new, len(symbol)))
    return longest


def _drops(splitter: Mapping[str, Any]) -> bool:
    return splitter.get("behavior") == "Removed"


def _normalization(
    changes: Sequence[Mapping[str, Any]],
) -> tuple[_Form | None, dict[str, str]] | None:
    """The form of Unicode, and what single characters become; None if anything else happens."""
    form: _Form | None = None
    replaced: dict[str, str] = {}
    for change in changes:
        if change["type"] in _FORMS and form is None and not replaced:
            form = _FORMS[change["type"]]
        elif change["type"] == "Replace":
            before = change["pattern"].get("String", "")
            chained = set(before + change["content"]) & {*replaced, *"".join(replaced.values())}
            if len(before) != 1 or chained:
                return None
            replaced[before] = change["content"]
        elif change["type"] not in ("Prepend", "ByteLevel"):
            return None
    return form, replaced


def _stays(character: str, form: _Form) -> bool:
    """Whether it is the same in this form, and joins with nothing before it."""
    joins = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cn", "Cs")
    jamo = any(ord(character) in each for each in _JAMO)
    return not joins and not jamo and unicodedata.normalize(form, character) == character
