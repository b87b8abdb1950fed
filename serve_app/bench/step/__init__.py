"""`bench step`: steps of one engine, held against their floor. No Ray, HTTP or pydantic."""
