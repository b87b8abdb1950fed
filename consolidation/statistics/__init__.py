"""Runs models on calibration text, and keeps what that shows. Plans nothing."""
