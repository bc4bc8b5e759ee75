"""Scores of good parts, and labels if there are any -> limits with a stated error rate."""

from inspect_cli.calibration.rules import RULES, GoodPeaks, limits_from_good

__all__ = ["RULES", "GoodPeaks", "limits_from_good"]
