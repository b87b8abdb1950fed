"""How far long commands are, on stderr: bars on a terminal, lines elsewhere. Knows no command."""
