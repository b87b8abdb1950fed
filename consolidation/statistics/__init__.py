"""What models make of calibration text, and how that is kept. Plans nothing."""
