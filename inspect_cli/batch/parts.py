"""The parts of a batch, one after the other: what is done is skipped, what fails is named, the rest goes on."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inspect_cli import __version__
from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images import Part, roi_files
from inspect_cli.images.reduced import BlockReducer, preview_scale
from inspect_cli.images.settle import Settling, fingerprint
from inspect_cli.material.manifest import TrainedMap
from inspect_cli.outputs.part_folder import (
    Pictures,
    patch_table,
    remove_others,
    write_findings,
    write_part,
    write_roi,
)
from inspect_cli.outputs.record import PartKey, confirmed, forget, read_record, set_aside
from inspect_cli.outputs.stored import has_maps, is_whole, outputs_of, part_folder, plan_of, rejudge
from inspect_cli.pictures.plots import load_early
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.scoring.scan import PartScan
from inspect_cli.store.atomic import write_json
from inspect_cli.store.digest import file_sha256
from inspect_cli.store.layout import ALL_OUTPUTS, RUN_RECORD
from inspect_cli.store.timestamps import utc_now

VERDICTS: Final = ("pass", "fail", "undecided", "error", "pending")


@dataclass
class Outcome:
    """How one part ended: its record, or why there is none; ``pending`` if it is left to the next run."""

    part: str
    record: dict[str, Any] | None = None
    error: str | None = None
    unchanged: bool = False
    pending: bool = False

    @property
    def verdict(self) -> str:
        """One of VERDICTS: ``error`` if the part could not be read, ``pending`` if it is not whole yet."""
        if self.pending:
            return "pending"
        return "error" if self.record is None else str(self.record["verdict"])


NOT_REACHED: Final = "the run ended before it; the next run takes it"
#: How often a wait looks for a signal to stop.
_NAP_S: Final = 0.2
#: Size, modification time (ns) and inode of each file of a part.
Looks = tuple[tuple[int, int, int], ...]
#: The last step of a part: writes what is left to write and tells how the part ended.
Finish = Callable[[], Outcome]


@dataclass
class RunSummary:
    """What a run has done so far, of the ``planned`` parts."""

    run: Path
    planned: list[str]
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = True

    def listed(self) -> list[str]:
        """Return the parts that belong to the run: all that were planned but those without a result."""
        failed = {outcome.part for outcome in self.outcomes if outcome.record is None}
        return [part for part in self.planned if part not in failed]

    def counts(self) -> dict[str, int]:
        """Return the number of parts of each verdict."""
        return {name: sum(o.verdict == name for o in self.outcomes) for name in VERDICTS}


def score_parts(
    summary: RunSummary,
    parts: Iterable[Part],
    model: ScoringModel,
    on_part: Callable[[Outcome], None],
    on_rows: Callable[[str, float], None] = lambda _part, _share: None,
    stop: Callable[[], bool] = lambda: False,
    force: bool = False,
    settle_s: float = 0.0,
    outputs: frozenset[str] = ALL_OUTPUTS,
) -> None:
    """Score ``parts`` and note their outcomes in ``summary``; one that cannot be read fails and the rest goes on.

    A part with a file that changed within ``settle_s`` seconds comes last. If it has not settled by then, if its
    marker is missing, or if it ends early and changed a short while ago, it is pending: neither scored nor an error,
    and left to the next run.

    While the pictures of a part are drawn and written, the network works on the next one.

    ``outputs`` are those of :data:`OUTPUTS` that are written, beside what a part has already; a part that is done is
    made again if it lacks one.

    ``on_part`` is told of each part that is done, ``on_rows`` how far the part in hand is (0 to 1).
    ``stop`` is asked before each part; when it says yes the run ends there. The summary stays marked as interrupted
    until every part has its outcome.
    """
    started = time.monotonic()
    stopped = False
    settling = Settling(settle_s, model.recipe.done_marker, lambda part: _roi_files(part, model))

    def note(outcome: Outcome) -> None:
        summary.outcomes.append(outcome)
        summary.seconds = round(time.monotonic() - started, 3)
        on_part(outcome)

    with ThreadPoolExecutor(1) as finishing:
        last: Future[Outcome] | None = None
        try:
            for part, obstacle in _settled_first(parts, settling, stop):
                stopped = stop()
                if stopped:
                    break
                if obstacle is None:
                    finish = _score_or_fail(summary.run, part, model, settling, on_rows, force, outputs)
                else:
                    finish = _pending(part, obstacle)
                last, previous = finishing.submit(finish), last
                if previous is not None:
                    note(previous.result())
        finally:
            if last is not None:
                note(last.result())
    summary.interrupted = stopped


def set_changed_aside(run: Path, parts: Iterable[Part], model: ScoringModel) -> None:
    """Set the records aside of parts whose files are not those that were scored, as far as sizes and times tell.

    Whatever ends the run before it comes to such a part, no result stands for files that nobody looked at.
    """
    for part in parts:
        folder = part_folder(run, part.id)
        record = read_record(folder)
        if record is not None and not _is_of(record, part, model):
            set_aside(folder)


def _is_of(record: dict[str, Any], part: Part, model: ScoringModel) -> bool:
    """Whether a part's files look as they did when it was scored."""
    with contextlib.suppress(OSError):
        return bool(record.get("seen") == [list(look) for look in fingerprint(_files(part, model))])
    return False


def _files(part: Part, model: ScoringModel) -> list[Path]:
    return [*part.files.values(), *_roi_files(part, model)]


def _roi_files(part: Part, model: ScoringModel) -> list[Path]:
    """Return the files that a part's ROI needs besides its maps; none if one is missing, as the reader will say."""
    with contextlib.suppress(InputError):
        return roi_files(model.recipe, part, model.material.folder)
    return []


def note_not_reached(summary: RunSummary, parts: Iterable[Part], model: ScoringModel) -> None:
    """Note the parts that a run ended before: pending, but for results of the same files, the model and limits."""
    reached = {outcome.part for outcome in summary.outcomes}
    today = (model.scoring_digest(), model.limits_digest(model.calibration()))
    for part in parts:
        if part.id in reached:
            continue
        folder = part_folder(summary.run, part.id)
        record = read_record(folder)
        judged_by = None if record is None else (record["key"].get("scoring"), record["key"].get("limits"))
        same = record is not None and judged_by == today and _is_of(record, part, model)
        if record is not None and same and is_whole(folder, model, outputs_of(record)):
            outcome = Outcome(part.id, record, unchanged=True)
        else:
            outcome = Outcome(part.id, error=NOT_REACHED, pending=True)
        summary.outcomes.append(outcome)


def _settled_first(
    parts: Iterable[Part], settling: Settling, stop: Callable[[], bool]
) -> Iterator[tuple[Part, str | None]]:
    """Yield parts and why they cannot be taken yet: those that can first, then, after a wait, the others."""
    later = []
    for part in parts:
        if settling.why_not(part) is None:
            yield part, None
        else:
            later.append(part)
    for part in later:
        while (left_s := settling.remaining_s(part)) > 0 and not stop():
            time.sleep(min(left_s, _NAP_S))
        yield part, settling.why_not(part)


def _pending(part: Part, reason: str) -> Finish:
    outcome = Outcome(part.id, error=f"{reason}; the next run takes it", pending=True)
    return lambda: outcome


def _score_or_fail(
    run: Path,
    part: Part,
    model: ScoringModel,
    settling: Settling,
    on_rows: Callable[[str, float], None],
    force: bool,
    outputs: frozenset[str],
) -> Finish:
    folder = part_folder(run, part.id)
    try:
        return _score(folder, part, model, on_rows, force, outputs)
    except InputError as error:
        forget(folder)  # an old result must not stand for what cannot be read now
        if isinstance(error, IncompleteError) and settling.may_grow(part):
            return _pending(part, str(error))
        failed = Outcome(part.id, error=str(error))
        return lambda: failed


def _score(
    folder: Path,
    part: Part,
    model: ScoringModel,
    on_rows: Callable[[str, float], None],
    force: bool,
    outputs: frozenset[str],
) -> Finish:
    """Score a part; what is returned writes its pictures and record, and tells how it ended."""
    clock = Clock()
    calibration = model.calibration()
    part.require_complete(model.maps)
    before = _look_at(part, model)
    with clock.phase("hash"):
        inputs = {name: file_sha256(part.files[name]) for name in model.maps}
        others = roi_files(model.recipe, part, model.material.folder)
        inputs |= {f"roi: {path.name}": file_sha256(path) for path in others}
    key = PartKey(inputs, model.scoring_digest(), model.limits_digest(calibration))
    record = None if force else confirmed(folder, key)
    if record is not None and model.recipe.size_px not in (None, tuple(record["size_px"])):
        record = None  # the contract changed: the reader refuses the part
    valid = record is not None and key.same_maps(record["key"])
    there = outputs_of(record) if record is not None and valid else frozenset()
    outputs |= there  # what is there, and still holds, is kept
    same_key = record is not None and record["key"] == key.as_dict() and outputs == there
    if record is not None and same_key and is_whole(folder, model, outputs):
        same = Outcome(part.id, record, unchanged=True)
        return lambda: same
    if record is not None and valid and has_maps(folder, model, outputs):
        with contextlib.suppress(InputError):  # what is stored is damaged: it is made again
            judged = Outcome(part.id, rejudge(folder, record, model, key, outputs))
            return lambda: judged
    forget(folder)
    with PartScan(part, model, clock) as scan:
        scan.on_rows = lambda share: on_rows(part.id, share)
        write = _write_scan(folder, part, model, scan, key, clock, outputs, before)
    if _look_at(part, model) != before:
        raise IncompleteError(f"{part.id}: a file changed while it was read")
    return lambda: Outcome(part.id, write())


def _look_at(part: Part, model: ScoringModel) -> Looks:
    try:
        return fingerprint(_files(part, model))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _write_scan(
    folder: Path,
    part: Part,
    model: ScoringModel,
    scan: PartScan,
    key: PartKey,
    clock: Clock,
    outputs: frozenset[str],
    seen: Looks,
) -> Callable[[], dict[str, Any]]:
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
    content = write_findings(plan, scan.blocks(), clock, True, scan.acquisition_faults, scan.gaps)
    trained = model.bundle.manifest.maps
    pictures: Pictures = {name: _picture(reducer.result(), trained[name]) for name, reducer in reducers.items()}
    head = {
        "format": 1,
        "part": part.id,
        "key": key.as_dict(),
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
    return lambda: write_part(plan, content, head, patches, pictures, clock)


def _picture(unit: NDArray[np.float32], trained: TrainedMap) -> NDArray[np.uint8]:
    """Return a preview as 8-bit: gray, or the first three channels.

    Each channel is shown on a scale fixed by the training images, never stretched per image.
    """
    planes = unit[..., None] if unit.ndim == 2 else unit
    planes = planes[..., :3] if planes.shape[2] >= 3 else planes[..., :1]
    low, high = (np.asarray(v, np.float32)[: planes.shape[2]] for v in (trained.shown_low, trained.shown_high))
    scaled = np.clip(np.nan_to_num((planes - low) / (high - low) * 255), 0, 255).astype(np.uint8)
    shown: NDArray[np.uint8] = scaled[..., 0] if scaled.shape[2] == 1 else scaled
    return shown


def write_run_record(
    summary: RunSummary, model: ScoringModel, folder: Path, started_utc: str, exit_code: int | None
) -> None:
    """Write ``run.json``."""
    manifest, recipe = model.bundle.manifest, model.recipe
    calibration = model.calibration()
    content = {
        "format": 1,
        "tool": f"inspect {__version__}",
        "material": recipe.material,
        "method": manifest.method,
        "model_sha256": manifest.digest(),
        "recipe_sha256": recipe.digest(),
        "calibration": json.loads(calibration.model_dump_json(exclude={"limits"}))
        | {"thresholds": {name: limit.pixel for name, limit in calibration.limits.items()}},
        "warnings": model.cautions,
        "input": str(folder.resolve()),
        "pixel_pitch_um": recipe.pixel_pitch_um,
        "tile_px": model.tiles.size_px,
        "stride_px": model.tiles.stride_px,
        "device": model.engine.device_name,
        "engine": model.engine.name,
        "precision": model.engine.precision,
        "started_utc": started_utc,
        "finished_utc": utc_now(),
        "seconds": summary.seconds,
        "counts": summary.counts(),
        "parts": summary.listed(),
        "errors": [{"part": o.part, "error": o.error} for o in summary.outcomes if o.verdict == "error"],
        "pending": [{"part": o.part, "error": o.error} for o in summary.outcomes if o.pending],
        "interrupted": summary.interrupted,
        "exit_code": exit_code,
    }
    write_json(summary.run / RUN_RECORD, content)
