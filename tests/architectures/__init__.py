"""`make architectures`: which MoE architectures of transformers are served. Downloads nothing."""
