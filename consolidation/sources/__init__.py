"""Where models come from: how people say it. Opens no checkpoint."""
