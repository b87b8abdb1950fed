"""Stock models that hold one decoder layer at a time. Scores and gathers nothing."""
