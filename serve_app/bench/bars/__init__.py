"""`bench bars`: what is measured for every bar that is stated for speed, and whether it holds."""
