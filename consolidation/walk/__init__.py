"""Stock models that hold one layer at a time. Scores and gathers nothing."""
