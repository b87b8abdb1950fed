"""The demo: makes a small family, consolidates, serves and asks it. Not an API."""
