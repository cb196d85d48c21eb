"""Notebooks in, checked reports out."""
