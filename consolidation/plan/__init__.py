"""From frontiers and a byte budget to a plan. Reads no weights, writes nothing."""
