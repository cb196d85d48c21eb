"""Notebook 04: from windows to patients."""
