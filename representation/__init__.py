"""What both halves need: architectures and formats of a model family. Imports neither half."""
