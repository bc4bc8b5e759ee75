"""What people look at: previews, plots and the HTML page; no number here that the run folder lacks."""
