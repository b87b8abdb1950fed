"""How good releases and other methods are, each model against its original. Builds none."""
