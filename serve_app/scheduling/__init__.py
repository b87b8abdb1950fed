"""What runs next, on which place, in which blocks. Decides and counts; no tensor, no clock."""
