"""One part of a batch: what is there of it holds, or is judged again, or all of it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspect_cli.batch.summary import Outcome
from inspect_cli.errors import ChangedError, InputError
from inspect_cli.images import Part, roi_files
from inspect_cli.images.reduced import BlockReducer, preview_scale
from inspect_cli.images.settle import fingerprint
from inspect_cli.material.manifest import TrainedMap
from inspect_cli.outputs.part_folder import (
    Pictures,
    patch_table,
    remove_others,
    write_findings,
    write_part,
    write_roi,
)
from inspect_cli.outputs.record import confirmed, forget
from inspect_cli.outputs.stored import has_maps, is_whole, plan_of, rejudge
from inspect_cli.pictures.plots import load_early
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.scoring.scan import PartScan
from inspect_cli.store.atomic import write_json
from inspect_cli.store.digest import file_sha256
from inspect_cli.store.layout import PART_RECORD
from inspect_cli.store.part_record import ROI_INPUT, PartKey, PartRecord
from inspect_cli.store.timestamps import utc_now

#: Size, modification time (ns) and inode of each file of a part.
Looks = tuple[tuple[int, int, int], ...]
#: The last step of a part: writes what is left to write and tells how the part ended.
Finish = Callable[[], Outcome]


def score_part(
    folder: Path,
    part: Part,
    model: ScoringModel,
    on_rows: Callable[[str, float], None],
    force: bool,
    outputs: frozenset[str],
) -> Finish:
    """Score a part into ``folder``, or find that what is there holds, or judge it again from its stored maps.

    What is returned draws the pictures, writes the record and tells how the part ended. ``on_rows`` is told of the
    part's id and the share that is scored; ``force`` scores whatever is there.

    Raises
    ------
    InputError
        If a map is missing or cannot be read, or is none that the recipe describes.
    ChangedError
        If a file changed while it was read.
    """
    clock = Clock()
    calibration = model.calibration()
    part.require_complete(model.maps)
    before = _look_at(part, model)
    with clock.phase("hash"):
        inputs = {name: file_sha256(part.files[name]) for name in model.maps}
        others = roi_files(model.recipe, part, model.material.folder)
        inputs |= {f"{ROI_INPUT}{path.name}": file_sha256(path) for path in others}
    key = PartKey(inputs=inputs, scoring=model.scoring_digest(), limits=model.limits_digest(calibration))
    record = None if force else confirmed(folder, key)
    if record is not None and model.recipe.size_px not in (None, record.size_px):
        record = None  # the contract changed: the reader refuses the part
    if record is not None and key.same_maps(record.key):
        moved = record.seen != list(before)  # copied or touched, with the same content
        record = record.model_copy(update={"seen": list(before)})
        outputs |= record.written  # what is there, and still holds, is kept
        if record.key == key and outputs == record.written and is_whole(folder, model, outputs):
            if moved:
                write_json(folder / PART_RECORD, record.model_dump())
            same = Outcome(part.id, record, unchanged=True)
            return lambda: same
        if has_maps(folder, model, outputs):
            with contextlib.suppress(InputError):  # what is stored is damaged: it is made again
                judged = Outcome(part.id, rejudge(folder, record, model, key, outputs))
                return lambda: judged
    forget(folder)
    with PartScan(part, model, clock) as scan:
        scan.on_rows = lambda share: on_rows(part.id, share)
        write = _write_scan(folder, part, model, scan, key, clock, outputs, before)
    if _look_at(part, model) != before:
        raise ChangedError(f"{part.id}: a file changed while it was read")
    return lambda: Outcome(part.id, write())


def _write_scan(
    folder: Path,
    part: Part,
    model: ScoringModel,
    scan: PartScan,
    key: PartKey,
    clock: Clock,
    outputs: frozenset[str],
    seen: Looks,
) -> Callable[[], PartRecord]:
    """Write the maps of a part; return what writes the rest and returns the record."""
    calibration = model.calibration()
    reducers = {}
    if "pictures" in outputs:
        load_early()
    for name, stream in scan.streams.items() if "pictures" in outputs else ():
        reducers[name] = BlockReducer(preview_scale(scan.height, scan.width), "mean")
        stream.on_pixels = reducers[name].push
    plan = plan_of(folder, model, scan.height, scan.width, scan.roi, outputs)
    remove_others(folder, outputs)
    write_roi(folder, scan.roi)
    found = write_findings(plan, scan.blocks(), clock, True, scan.acquisition_faults, scan.gaps)
    trained = model.bundle.manifest.maps
    pictures: Pictures = {name: _picture(reducer.result(), trained[name]) for name, reducer in reducers.items()}
    head = {
        "format": 1,
        "part": part.id,
        "key": key,
        "seen": seen,
        "size_px": [scan.width, scan.height],
        "acquisition_faults": scan.acquisition_faults(),
        "scored_utc": utc_now(),
        "maps": {
            name: {
                "file": part.files[name].relative_to(part.folder).as_posix(),
                "sha256": key.inputs[name],
                "mean": round(stream.moments.mean, 5),
                "spread": round(stream.moments.spread, 5),
            }
            for name, stream in scan.streams.items()
        },
    }
    patches = patch_table(part.id, {n: s.patches() for n, s in scan.streams.items()}, calibration)
    return lambda: write_part(plan, found, head, patches, pictures, clock)


def _picture(unit: NDArray[np.float32], trained: TrainedMap) -> NDArray[np.uint8]:
    """Return a preview as 8-bit: gray, or the first three channels.

    Each channel is shown on a scale fixed by the training images, never stretched per image.
    """
    planes = unit[..., None] if unit.ndim == 2 else unit
    planes = planes[..., :3] if planes.shape[2] >= 3 else planes[..., :1]
    low, high = (np.asarray(v, np.float32)[: planes.shape[2]] for v in (trained.shown_low, trained.shown_high))
    with np.errstate(over="ignore", invalid="ignore"):  # values that mean "no data" may be huge
        scaled = np.clip(np.nan_to_num((planes - low) / (high - low) * 255), 0, 255).astype(np.uint8)
    shown: NDArray[np.uint8] = scaled[..., 0] if scaled.shape[2] == 1 else scaled
    return shown


def is_of(record: PartRecord, part: Part, model: ScoringModel) -> bool:
    """Whether a part's files look as they did when it was scored."""
    with contextlib.suppress(OSError):
        return record.seen == list(fingerprint(_files(part, model)))
    return False


def _files(part: Part, model: ScoringModel) -> list[Path]:
    return [*part.files.values(), *files_of_roi(part, model)]


def files_of_roi(part: Part, model: ScoringModel) -> list[Path]:
    """Return the files that a part's ROI needs besides its maps; none if one is missing, as the reader will say."""
    with contextlib.suppress(InputError):
        return roi_files(model.recipe, part, model.material.folder)
    return []


def _look_at(part: Part, model: ScoringModel) -> Looks:
    try:
        return fingerprint(_files(part, model))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
