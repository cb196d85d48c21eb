"""Notebook 05: cases, their metrics and small experiments."""
