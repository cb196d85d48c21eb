"""Whole slides: a model's answer for every tile, and one for the slide."""
