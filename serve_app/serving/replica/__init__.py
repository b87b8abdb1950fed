"""The engine replica: text in, text out, one release after another. Knows no Ray."""
