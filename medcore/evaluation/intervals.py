"""Confidence intervals that can be believed: patients are resampled, not patches."""

from __future__ import annotations

from medcore.evaluation.estimate import Estimate, not_estimable

__all__ = ["Estimate", "not_estimable"]
