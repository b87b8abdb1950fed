"""Jobs and their items on the way between ingress and replica. Generates nothing."""
