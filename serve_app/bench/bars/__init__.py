"""`bench bars`: measures every speed target ("bar") and says whether it is met."""
