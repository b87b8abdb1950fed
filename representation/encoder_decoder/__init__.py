"""What encoder–decoder models have that decoders have not. Judges no model, and computes none."""
