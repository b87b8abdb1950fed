"""The command `serve`, and the file that it takes. What serving is, `serve_app.serving` knows."""
