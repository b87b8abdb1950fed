"""Anthropic's protocol: its requests as chats, and answers and errors in its shape. No I/O."""
