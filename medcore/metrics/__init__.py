"""Arithmetic on arrays and tensors: one definition for each formula."""
