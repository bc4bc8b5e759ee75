"""The table of a part's patches, as later steps read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inspect_cli.errors import InputError
from inspect_cli.store.layout import PATCHES
from inspect_cli.store.parquet import read_parquet

PATCH_COLUMNS: Final = ("part", "map", "x_px", "y_px", "roi_share", "residual_mean", "score")


def read_patches(folder: Path, columns: Sequence[str] = PATCH_COLUMNS) -> pa.Table:
    """Read columns of the patch table in a part's folder.

    Raises
    ------
    InputError
        If it cannot be read, or lacks a column.
    """
    path = folder / PATCHES
    try:
        table = read_parquet(path, columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); score the part again") from error
    if missing := sorted(set(columns) - set(table.column_names)):
        raise InputError(f"{path}: has no column {missing[0]}; score the part again")
    return table


def by_map(table: pa.Table, column: str) -> dict[str, NDArray[Any]]:
    """Return a column of a patch table by map, each (patches,) in the table's order."""
    names, values = np.asarray(table["map"].to_pylist()), table[column].to_numpy()
    return {str(name): values[names == name] for name in dict.fromkeys(names.tolist())}
