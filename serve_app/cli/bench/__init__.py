"""The `bench` commands: what is asked for, and how what was found is shown."""
