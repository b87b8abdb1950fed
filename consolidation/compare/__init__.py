"""The ways to store the experts of a layer, and what each costs. Builds nothing."""
