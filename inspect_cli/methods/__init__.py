"""The papers' systems: network, corruption, loss, and how a tile becomes a score map."""

from inspect_cli.methods.registry import build_detector, method_entries, method_names

__all__ = ["build_detector", "method_entries", "method_names"]
