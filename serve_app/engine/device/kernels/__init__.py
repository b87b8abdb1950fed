"""Triton kernels for CUDA: experts that are sums of parts. Imported when first needed."""
