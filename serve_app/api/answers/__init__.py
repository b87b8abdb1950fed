"""How answers are written, whole and as events: one dialect a file. Sends nothing."""
