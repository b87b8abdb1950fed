"""`bench compare`: the same requests through several ways of serving, the arms of `bench/arms`."""
