"""Evaluation: how well a run's scores agree with the truth."""
