"""A plan carried out: blobs of slots, residuals and backbones. Decides nothing."""
