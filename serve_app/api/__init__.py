"""OpenAI's HTTP surface. No torch, Ray or tokenizers: it asks an `EngineClient`."""
