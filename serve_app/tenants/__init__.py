"""Who may ask for what, and how much of it. Knows no HTTP, no Ray and no engine."""
