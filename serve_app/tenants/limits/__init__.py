"""What is left of tenants' limits, counted for all ingresses together. Knows no HTTP, no Ray."""
