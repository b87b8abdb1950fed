"""The HTTP surface: OpenAI's and Anthropic's. No torch, no Ray: it asks an `EngineClient`."""
