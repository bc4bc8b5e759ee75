"""Will the results of a run fit on the disk? Asked before the first part, so that a night is not lost half-way."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from inspect_cli.errors import InputError, OutputError
from inspect_cli.images import Part, open_map
from inspect_cli.outputs.record import record_of
from inspect_cli.outputs.stored import part_folder
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.store.layout import HEATMAP

#: Compressed bytes a pixel of a stored map: the least seen on full-size riblet parts was 1.64, the most 2.26.
BYTES_PER_PIXEL: Final = 1.6


def check_space(run: Path, parts: Sequence[Part], model: ScoringModel, force: bool, outputs: frozenset[str]) -> None:
    """Raise OutputError if what is not scored yet needs more space than there is where ``run`` is.

    The need is estimated from the size of the first readable part, for its raw maps and its anomaly map as they
    are among ``outputs``. Files that are there already are replaced one by one, each whole before the old one goes.
    """
    waiting = [part for part in parts if force or not _has(part_folder(run, part.id), outputs)]
    each = _bytes_of_a_part(waiting, model, outputs)
    there = [_bytes_there(part_folder(run, part.id)) for part in waiting]
    needed = sum(max(0.0, each - size) for size in there) + (each if any(there) else 0.0)
    place = next(folder for folder in (run, *run.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{run}: {len(waiting)} part(s) need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "free space or choose another --out"
        )


def _bytes_there(folder: Path) -> int:
    """Return the bytes of the stored maps of a part."""
    return sum(path.stat().st_size for path in [*folder.glob("maps/*.tif"), *folder.glob(HEATMAP)])


def _has(folder: Path, outputs: frozenset[str]) -> bool:
    record = record_of(folder)
    return record is not None and outputs <= record.written


def _bytes_of_a_part(parts: Sequence[Part], model: ScoringModel, outputs: frozenset[str]) -> float:
    stored = len(model.maps) * ("maps" in outputs) + ("heatmap" in outputs)
    for part in parts:
        try:
            part.require_complete(model.maps)
            with open_map(part.files[next(iter(model.maps))]) as reader:
                pixels = reader.header.width * reader.header.height
        except InputError:
            continue  # named when its turn comes
        return BYTES_PER_PIXEL * pixels * stored
    return 0.0
