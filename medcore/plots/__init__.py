"""Every figure, one file per family."""
