"""Notebook 06: what it does beyond training and metrics."""

from medcore.studies.classification.pretrained import PretrainedStart
from medcore.studies.classification.study import ClassificationChoices, ClassificationStudy

__all__ = ["ClassificationChoices", "ClassificationStudy", "PretrainedStart"]
