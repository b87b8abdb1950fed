"""The endpoint: ingress and engine as Ray Serve deployments. Only `app` binds them."""
