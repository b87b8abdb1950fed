"""Who is next, and who gives way, by what tenants were served. Knows no place and no step."""
