"""A process for text beside the engine: both ends of it. Knows no engine, no Ray, no torch."""
