"""Which rows of state are free. Counts only: the tensors live in the engine's state store.

A row holds what the recurrent mixers of all layers keep of one sequence. It does not grow.
"""

from serve_app.scheduling.ledgers.free_units import UNBOUNDED, FreeUnits

STATE_ROWS = "state_rows"
"""The kind of need that they are."""


class StateLedger(FreeUnits):
    """`num_rows` rows, one for each running sequence."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows, "rows of state")
        self.kind = STATE_ROWS

    def units_for(self, num_positions: int, num_inputs: int = 0) -> int:
        """One for any number of positions."""
        return 1 if num_positions else 0

    def positions_in(self, num_units: int, num_inputs: int = 0) -> int:
        """Any number of positions fit into one."""
        return UNBOUNDED if num_units else 0
