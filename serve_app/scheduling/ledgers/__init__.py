"""Who holds what of which there is only so much. They count; they decide nothing."""
