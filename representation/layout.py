"""Where an expert's neurons lie in its first matrix. Names the ways; finding one is elsewhere."""

from typing import Literal

Layout = Literal["halves", "pairs", "single"]
"""Rows of a hidden neuron in the first matrix: its gate and its up row in two halves, side by side
as a pair, or one row alone."""
