"""Removes from a registry what nothing needs any more. Builds and serves nothing."""
