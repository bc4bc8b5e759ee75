"""Previews and plots for people, in one colour scale; no number here that is not in a file beside them."""
