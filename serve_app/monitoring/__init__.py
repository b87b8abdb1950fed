"""What people watch endpoints by, made of the table of metrics. Reads no metric itself."""
