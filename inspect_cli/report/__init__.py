"""The HTML page of a run; no number here that the run folder lacks."""
