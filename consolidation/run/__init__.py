"""How tasks are run and their results kept. Knows no task."""
