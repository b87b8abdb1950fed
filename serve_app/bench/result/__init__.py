"""What a benchmark found, where it ran, and the page about it. Knows no benchmark."""
