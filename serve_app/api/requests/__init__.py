"""What clients send: bodies, their fields, and jobs made of them. No I/O."""
