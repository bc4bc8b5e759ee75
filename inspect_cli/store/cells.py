"""CSV files in which text stays text in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """Return text that a spreadsheet takes as text, not as a formula; other values as they are."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return "'" + value
    return value


def plain_cell(text: str) -> str:
    """Return the text that :func:`safe_cell` made a cell of."""
    return text[1:] if text[:1] == "'" and text[1:2] in FORMULA_STARTS else text


def row_writer(file: TextIO, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], None]:
    """Write the head of a CSV file; return what writes a row, without what it has beside ``columns``."""
    writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()

    def write(row: Mapping[str, Any]) -> None:
        writer.writerow({name: safe_cell(value) for name, value in row.items()})

    return write


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a head; what a row has beside ``columns`` is left out."""
    text = io.StringIO()
    write = row_writer(text, columns)
    for row in rows:
        write(row)
    return text.getvalue()
