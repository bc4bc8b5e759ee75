"""Rows as text for people, the paper's numbers beside the measured ones."""

from __future__ import annotations

from collections.abc import Sequence

from inspect_cli.reproduce.experiment import PAPER, Row, Value


def as_line(row: Row) -> str:
    """Return a row's labels and metrics as ``name value``, the paper's value in brackets."""
    words = []
    for name, value in row.items():
        if name + PAPER in row:
            beside = row[name + PAPER]
            paper = "" if beside is None else f" (paper {_shown(name, beside)})"
            words.append(f"{name} {_shown(name, value)}{paper}")
        elif isinstance(value, str) and name != "budget":
            words.append(value)
    return "  ".join(words)


def as_table(rows: Sequence[Row]) -> str:
    """Return rows as aligned columns; those that are empty in every row are left out."""
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    heads = ["paper" if column.endswith(PAPER) else column for column in columns]
    cells = [[_shown(column, row[column]) for column in columns] for row in rows]
    widths = [max(map(len, texts)) for texts in zip(heads, *cells, strict=True)]
    is_text = [isinstance(rows[0][column], str) for column in columns]

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(texts, widths, is_text, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(line(texts) for texts in (heads, *cells))


def _shown(column: str, value: Value) -> str:
    """Return metrics with four decimals, seconds with one, ``-`` for what there is not."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if column.startswith("train_s") else f"{value:.4f}"
    return str(value)
