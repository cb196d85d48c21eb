"""Notebook 06: what it does beyond training and metrics."""
