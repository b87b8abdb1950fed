"""The `expertpool` command: parses, prints, sets exit codes. Decides nothing about models."""
