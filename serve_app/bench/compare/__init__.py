"""`bench compare`: the same requests through several ways of serving. The ways are `arms`."""
