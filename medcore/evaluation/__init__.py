"""Scores, thresholds, intervals, baselines and decisions."""
