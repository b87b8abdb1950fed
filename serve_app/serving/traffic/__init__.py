"""Which of two releases answers a request, and with which defaults. Loads nothing."""
