"""Scores of good parts, and labels if there are any -> limits with a stated error rate."""
