"""Whole slides: reading, tissue, tiles, annotations, and a slide phantom (extra ``slides``)."""
