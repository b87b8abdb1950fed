"""Commands that help to watch endpoints. They serve nothing, and ask no endpoint."""
