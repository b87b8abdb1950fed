"""The endpoint: ingress and engine as deployments. `app` alone knows how they are bound."""
