"""Damage done to good patches on purpose, so that a network learns to remove or to mark it.

A corruption is a function of patches and a random generator; methods choose one, the training loop applies
it beside the network's work. ``inspect train --preview-corruptions`` shows what it does.
"""

from inspect_cli.corruptions.base import Corrupted, Corruption

__all__ = ["Corrupted", "Corruption"]
