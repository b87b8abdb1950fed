"""A stock transformers model for the tokens of several backbones. Holds no experts and no KV."""
