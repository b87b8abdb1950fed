"""Tests of the engine, without Ray."""
