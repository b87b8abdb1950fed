"""Runs tasks and keeps their results. Knows no task."""
