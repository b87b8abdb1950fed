"""The messages and errors between the HTTP side and the engine side. No HTTP, no Ray."""
