"""Carries out a plan: writes blobs of slots, residuals and backbones. Decides nothing."""
