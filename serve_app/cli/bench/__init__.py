"""The `bench` commands: options in, one call, print. What is measured and said is in `bench`."""
