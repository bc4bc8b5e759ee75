"""What a run folder says of its parts, read strictly: what is measured must be whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import NoInputError
from inspect_cli.store.layout import PART_RECORD, PARTS_FOLDER
from inspect_cli.store.patches import by_map, read_patches
from inspect_cli.store.paths import check_is_text
from inspect_cli.store.run_record import RunRecord, read_run_record


class Patches(NamedTuple):
    """First pixels of a part's patches (n,) and, map by map, their scores (n,), 1 at the limit."""

    x_px: NDArray[np.int32]
    y_px: NDArray[np.int32]
    scores: dict[str, NDArray[np.float32]]


class RunParts(NamedTuple):
    """Folders of the finished parts, sorted; ids of the others; the run's record, where it can be read."""

    finished: list[Path]
    unfinished: frozenset[str]
    record: RunRecord | None


def find_parts(run: Path) -> RunParts:
    """Return the parts of a run. Folders of parts that the run's record does not list are left out."""
    check_is_text(run)
    top = run / PARTS_FOLDER
    finished = sorted(record.parent for record in top.rglob(PART_RECORD))
    above = {top, *(parent for folder in finished for parent in folder.parents)}
    unfinished = set()
    for name, subfolders, files in os.walk(top):
        folder = Path(name)
        # A folder with files, or with nothing in it, is a part; one with folders alone is a kind.
        is_part = PART_RECORD in files or (folder not in above and (bool(files) or not subfolders))
        if is_part:
            if PART_RECORD not in files:
                unfinished.add(folder.relative_to(top).as_posix())
            subfolders.clear()
    try:
        record = read_run_record(run)
    except NoInputError:
        return RunParts(finished, frozenset(unfinished), None)
    parts = frozenset(record.parts)
    finished = [folder for folder in finished if folder.relative_to(top).as_posix() in parts]
    unfinished |= {left.part for left in [*record.errors, *record.pending]}
    unfinished |= parts - {folder.relative_to(top).as_posix() for folder in finished}  # never begun
    return RunParts(finished, frozenset(unfinished), record)


def patches_of(folder: Path) -> Patches:
    """Return the patches of a part, whose maps are all cut into the same; raises as :func:`read_patches` does."""
    table = read_patches(folder, ["map", "x_px", "y_px", "score"])
    x_px, y_px = (next(iter(by_map(table, name).values()), np.zeros(0, np.int32)) for name in ("x_px", "y_px"))
    return Patches(x_px, y_px, by_map(table, "score"))
