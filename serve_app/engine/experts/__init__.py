"""The experts that all models share: shelves of parts and products with them. No models."""
