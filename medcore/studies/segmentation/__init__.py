"""Notebook 05: cases, their metrics and small experiments."""

from medcore.studies.segmentation.study import SegmentationChoices, SegmentationStudy

__all__ = ["SegmentationChoices", "SegmentationStudy"]
