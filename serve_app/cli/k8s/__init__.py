"""The `k8s` commands: manifests for a cluster. What is right, `serve_app.k8s` knows."""
