"""The `expertpool` command: parses, prints, gives exit codes. Decides nothing about models."""
