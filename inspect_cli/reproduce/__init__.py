"""The papers' tables, run again: generate or read the data, train, score, measure, compare."""

from inspect_cli.reproduce.tables import TABLES, reproduce

__all__ = ["TABLES", "reproduce"]
