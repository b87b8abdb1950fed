"""A stock transformers model that runs tokens of several backbones. Holds no experts, no KV."""
