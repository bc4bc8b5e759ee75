"""Fault campaigns: commands are killed, inputs damaged, and what is left is compared with an undisturbed run.

``make faults`` runs them at length and writes ``bench/faults.csv``; ``tests/test_faults.py`` runs a short version.
"""
