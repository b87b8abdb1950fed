"""Many tenants, models and requests in virtual time: the scheduler beside two simpler ones."""
