"""Which replica answers what, whose turn it is to stage, and how many are wanted. Sends nothing."""
