"""Carries jobs and their items between ingress and replica. Generates nothing."""
