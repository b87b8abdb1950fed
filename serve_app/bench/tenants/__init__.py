"""`bench tenants`: what tenants do to each other, and what it costs to keep them apart."""
