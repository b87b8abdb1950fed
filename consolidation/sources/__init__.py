"""Where models come from: how people say it, and how it gets here. Opens no checkpoint."""
