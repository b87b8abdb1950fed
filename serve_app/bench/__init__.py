"""What is measured on this machine, and how. Prints nothing: the command line shows it."""
