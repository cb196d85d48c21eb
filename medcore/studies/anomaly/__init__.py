"""Notebooks 02 and 03: who learns, which score, how good a detector."""
