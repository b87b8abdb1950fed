"""OpenAI's HTTP surface. Without torch, Ray or tokenizers: an `EngineClient` is asked."""
