"""The papers' tables, run again: generate or read the data, train, score, measure, compare."""

from inspect_cli.reproduce.registry import TABLES, Table

__all__ = ["TABLES", "Table"]
