"""Grammars of what clients ask for, each checked once. Asks those that check."""

import json
from collections import OrderedDict
from typing import Any

from serve_app.errors import BadGrammar
from serve_app.text.constraints.grammar_making import Source

_MOST = 256
LONGEST_CONSTRAINT = 2**16
"""Characters of one schema, grammar, expression or list of texts, as JSON."""


class CheckedSources:
    """The last that were good. From one thread: questions about grammars have one."""

    def __init__(self, check: Source) -> None:
        self._check = check
        self._known: OrderedDict[str, str] = OrderedDict()

    def source(self, kind: str, value: Any) -> str:
        """See `Source`."""
        key = json.dumps((kind, value))
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        if len(key) > LONGEST_CONSTRAINT:
            raise BadGrammar(
                f"it has {len(key)} characters as JSON, of at most {LONGEST_CONSTRAINT}"
            )
        made = self._check(kind, value)
        self._known[key] = made
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return made
