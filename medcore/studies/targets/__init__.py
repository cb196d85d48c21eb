"""Notebook 09: several findings, a grade or a measured value an image."""

from medcore.studies.targets.study import TargetChoices, TargetStudy

__all__ = ["TargetChoices", "TargetStudy"]
