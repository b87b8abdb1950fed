"""Commands that say who gets which release, and by which name. They serve nothing."""
