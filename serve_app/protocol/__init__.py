"""What passes between the HTTP side and the engine side: messages and errors. No HTTP, no Ray."""
