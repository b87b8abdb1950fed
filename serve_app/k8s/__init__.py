"""Manifests for Kubernetes: rendered, and judged. One file, which runs jobs, asks a cluster."""
