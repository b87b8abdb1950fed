"""A family of a published shape, end to end: made, consolidated, served, compared. Slow."""
