"""What the experts of a layer may be served as, and what each way costs. Builds nothing."""
