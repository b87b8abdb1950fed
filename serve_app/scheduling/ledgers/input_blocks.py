"""Which blocks for the inputs of encoders are free. Counts only: the tensors live in the engine's
stores of cross-attention.

They are written once, in the step that computes the input, and read until the sequence ends.
"""

from serve_app.scheduling.ledgers.free_units import UNBOUNDED, FreeUnits

INPUT_BLOCKS = "input_blocks"
"""The kind of need that they are."""


class InputLedger(FreeUnits):
    """`num_blocks` blocks, each for `block_size` tokens of one input."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        super().__init__(num_blocks, f"blocks for {block_size} tokens of an input")
        self.kind = INPUT_BLOCKS
        self.block_size = block_size

    def units_for(self, num_positions: int, num_inputs: int = 0) -> int:
        """For the whole input, as soon as anything of the sequence is computed."""
        return -(-num_inputs // self.block_size) if num_positions else 0

    def positions_in(self, num_units: int, num_inputs: int = 0) -> int:
        """Any number, once the input has its blocks."""
        return UNBOUNDED if num_units * self.block_size >= num_inputs else 0
