"""Notebook 07: a frozen model on another cohort, and how many patients that takes."""
