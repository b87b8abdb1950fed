"""`make gpu-check`: all that only a device can show, in one run of a few minutes. Not the suite."""
