"""Tables as Parquet files.

pyarrow takes a relative name such as ``charge:1`` for an address, so paths are made absolute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inspect_cli.store.atomic import write_with


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table, or some of its columns; raises ``pa.ArrowException`` or OSError if it cannot be read."""
    return pq.read_table(path.absolute(), columns=None if columns is None else list(columns))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all."""
    write_with(path, lambda temporary: pq.write_table(table, temporary.absolute()))
