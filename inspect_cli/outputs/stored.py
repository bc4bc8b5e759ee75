"""What is stored of a part, whether all of it is there, and its judging again by other limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import InputError
from inspect_cli.images import open_map
from inspect_cli.material.manifest import DOUBT
from inspect_cli.outputs.part_folder import (
    PartPlan,
    Pictures,
    rescored_patches,
    stored_blocks,
    stored_roi,
    write_findings,
    write_part,
)
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.store.atomic import write_json
from inspect_cli.store.layout import MASK, OUTPUTS, PART_RECORD, PARTS_FOLDER, PATCHES, ROI_MASK
from inspect_cli.store.part_record import PartKey, PartRecord
from inspect_cli.store.patches import read_patches


def part_folder(run: Path, part_id: str) -> Path:
    """Return the folder of a part's results."""
    return run / PARTS_FOLDER / part_id


def plan_of(
    folder: Path,
    model: ScoringModel,
    height: int,
    width: int,
    roi: NDArray[np.bool_] | None,
    outputs: frozenset[str],
) -> PartPlan:
    """Return where the files of a part of that size go, and what its verdict rests on."""
    recipe = model.recipe
    calibration, pitch = model.calibration(), recipe.pixel_pitch_um
    doubt = None if model.bundle.manifest.doubt is None else DOUBT
    return PartPlan(folder, height, width, roi, calibration, recipe.scoring, pitch, outputs, doubt)


def is_whole(folder: Path, model: ScoringModel, outputs: frozenset[str]) -> bool:
    """Whether every file of a part's outputs is there."""
    names = [pattern.replace("*", name) for out in outputs for pattern in OUTPUTS[out] for name in model.maps]
    return all((folder / name).is_file() for name in [MASK, *names, *_always(model)]) and _has_patches(folder)


def has_maps(folder: Path, model: ScoringModel, outputs: frozenset[str]) -> bool:
    """Whether all is there that a part can be judged from again: its raw maps, and what pictures are made of."""
    endings = (".tif", ".png") if "pictures" in outputs else (".tif",)
    names = [f"maps/{name}{ending}" for name in model.maps for ending in endings]
    return all((folder / name).is_file() for name in [*names, *_always(model)]) and _has_patches(folder)


def _has_patches(folder: Path) -> bool:
    """Whether the patch table can be read."""
    try:
        read_patches(folder)
    except InputError:
        return False
    return True


def _always(model: ScoringModel) -> list[str]:
    """Return the files that a part has whatever the outputs, but for its record and its mask."""
    return [PATCHES, *([ROI_MASK] if model.recipe.roi.rule != "none" else [])]


def rejudge(
    folder: Path, record: PartRecord, model: ScoringModel, key: PartKey, outputs: frozenset[str]
) -> PartRecord:
    """Apply the limits in force to a part's stored maps; the network does not run. Returns the new record.

    Until the new record is there, the old one stands with a key that no limits have: if this is killed half-way, the
    next run judges the part again.
    """
    clock = Clock()
    width, height = record.size_px
    unjudged = record.model_copy(update={"key": key.model_copy(update={"limits": ""})})
    write_json(folder / PART_RECORD, unjudged.model_dump())
    plan = plan_of(folder, model, height, width, stored_roi(folder, height, width), outputs)
    patches = rescored_patches(read_patches(folder), model.calibration())
    faults, gaps = record.acquisition_faults, record.gaps
    blocks = stored_blocks(folder, model.maps, height, width)
    found = write_findings(plan, blocks, clock, False, lambda: faults, lambda: gaps)
    shown = model.maps if "pictures" in outputs else ()
    pictures: Pictures = {name: _stored_picture(folder / "maps" / f"{name}.png") for name in shown}
    kept = {"format", "part", "seen", "size_px", "acquisition_faults", "scored_utc", "maps"}
    return write_part(plan, found, record.model_dump(include=kept) | {"key": key}, patches, pictures, clock)


def _stored_picture(path: Path) -> NDArray[np.uint8]:
    with open_map(path) as reader:
        picture: NDArray[np.uint8] = reader.read().astype(np.uint8)
        return picture
