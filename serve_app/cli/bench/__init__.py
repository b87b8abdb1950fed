"""The `bench` commands: parse options, make one call, print. `serve_app.bench` measures."""
