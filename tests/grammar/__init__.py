"""Answers that obey a grammar: tests, and `python -m tests.grammar`, which measures them."""
