"""Tells content, reasoning and tool calls apart in an answer's text. Knows no tokens, no HTTP."""
