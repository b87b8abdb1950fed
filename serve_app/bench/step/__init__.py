"""`bench step`: steps of one engine, compared with their floor. No Ray, HTTP or pydantic."""
