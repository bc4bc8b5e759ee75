"""What a run folder says of its parts, read strictly: what is measured must be whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from inspect_cli.errors import InputError, NoInputError, first_fault
from inspect_cli.store.layout import ALL_OUTPUTS, PART_RECORD, PARTS_FOLDER
from inspect_cli.store.paths import check_is_text
from inspect_cli.store.run_record import read_run_record


class MapRecord(BaseModel):
    """What ``part.json`` says of one map: its threshold in raw units, its peak score."""

    threshold: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    score: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    file: str | None = None


class JudgedBy(BaseModel):
    """The part of a record's key that all parts of a finished run share: model and settings, limits."""

    scoring: str = ""
    limits: str = ""


class PartRecord(BaseModel):
    """What ``part.json`` says of a part, as far as it matters here."""

    part: str
    verdict: Literal["pass", "fail", "undecided"]
    score: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    maps: dict[str, MapRecord]
    size_px: tuple[int, int]
    key: JudgedBy = JudgedBy()
    outputs: frozenset[str] = ALL_OUTPUTS


class Patches(NamedTuple):
    """First pixels of a part's patches (n,) and, map by map, their scores (n,), 1 at the limit."""

    x_px: NDArray[np.int32]
    y_px: NDArray[np.int32]
    scores: dict[str, NDArray[np.float32]]


class RunParts(NamedTuple):
    """Folders of the finished parts, sorted; ids of the others; batch folder and side of the tiles, where known."""

    finished: list[Path]
    unfinished: frozenset[str]
    batch: Path | None
    tile_px: int | None


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
        return RunParts(finished, frozenset(unfinished), None, None)
    parts = frozenset(record.parts)
    finished = [folder for folder in finished if folder.relative_to(top).as_posix() in parts]
    unfinished |= {left.part for left in [*record.errors, *record.pending]}
    unfinished |= parts - {folder.relative_to(top).as_posix() for folder in finished}  # never begun
    return RunParts(finished, frozenset(unfinished), record.input, record.tile_px)


def read_record(path: Path) -> PartRecord:
    """Read a ``part.json``.

    Raises
    ------
    InputError
        If it cannot be read or a key is missing or wrong; the message names the first one.
    """
    try:
        return PartRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); score the part again") from error
    except ValidationError as error:
        key, fault = first_fault(error)
        raise InputError(f"{path}: {key or 'file'}: {fault}; score the part again") from error


def read_patches(folder: Path) -> Patches:
    """Read the patch table of a part; its maps are cut into the same patches.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    path = folder / "patches.parquet"
    try:
        table = pq.read_table(path, columns=["map", "x_px", "y_px", "score"])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); score the part again") from error
    names = np.asarray(table["map"].to_pylist())
    x_px, y_px, scores = (table[name].to_numpy() for name in ("x_px", "y_px", "score"))
    maps = [str(name) for name in dict.fromkeys(names.tolist())]
    first = names == maps[0] if maps else np.zeros(0, bool)
    return Patches(x_px[first], y_px[first], {name: scores[names == name] for name in maps})
