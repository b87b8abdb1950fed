"""One HTML file about releases and other methods, for people. Decides nothing, measures nothing."""
