"""Reads LoRA adapters, and adds them to the tensors of their base. Plans nothing."""
