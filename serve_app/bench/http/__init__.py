"""`bench http`: what a streamed token costs each process of an endpoint. Judges nothing."""
