"""Compare a run folder with the truth: every map file is read once, in bands of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import InputError, NoInputError
from inspect_cli.evaluation.metrics import ScoreHistogram, label_regions, rank_auroc, region_weights
from inspect_cli.evaluation.patch_count import count_patches, inside_roi
from inspect_cli.evaluation.run_parts import find_parts
from inspect_cli.evaluation.truth import Truth, doubts
from inspect_cli.images import open_map, read_mask
from inspect_cli.scoring.halo import HaloTrimmer
from inspect_cli.store.layout import HEATMAP, MASK
from inspect_cli.store.part_record import PartRecord, read_part_record

BAND_ROWS: Final = 256
LIMIT: Final = 1.0
JUDGED: Final = ("pass", "fail", "undecided")
GOOD, DEFECTIVE = "good", "defective"
FUSED: Final = ""
#: Lifts scores above the limit, so that whatever is below it then is halo; a power of two, which rounds nothing.
_LIFT: Final = np.float32(2.0**60)

Metrics = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """One score map of a part on disk: score = stored value / ``limit``; ``flagged`` is the mask made of it."""

    name: str
    path: Path
    limit: float
    peak: float | None
    flagged: Path | None = None


@dataclass(slots=True)
class Tally:
    """Pixels and peak scores of a set of parts, for one map or fused.

    ``flagged_defect_px`` and ``flagged_good_px`` are pixels of the run's masks, which a single map does not have.
    ``patches`` counts patches by their score; one is defective if it shows enough of a defect.
    """

    histogram: ScoreHistogram = field(default_factory=ScoreHistogram)
    patches: ScoreHistogram = field(default_factory=ScoreHistogram)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    flagged_defect_px: int = 0
    flagged_good_px: int = 0
    good_peaks: list[float] = field(default_factory=list)
    defect_peaks: list[float] = field(default_factory=list)
    good: int = 0
    defective: int = 0
    undecided: int = 0

    def merge(self, other: Tally) -> None:
        """Add the parts of another tally to this one."""
        self.histogram.merge(other.histogram)
        self.patches.merge(other.patches)
        self.verdicts += other.verdicts
        self.flagged_defect_px += other.flagged_defect_px
        self.flagged_good_px += other.flagged_good_px
        self.good_peaks += other.good_peaks
        self.defect_peaks += other.defect_peaks
        self.good += other.good
        self.defective += other.defective
        self.undecided += other.undecided

    def metrics(self) -> Metrics:
        """Compute every metric; one that is undefined is ``None``."""
        f1, iou = self.histogram.f1_max(), self.histogram.iou_max()
        return {
            "pixel_auroc": self.histogram.auroc(),
            "pixel_ap": self.histogram.average_precision(),
            "au_pro": self.histogram.au_pro(),
            "image_auroc": rank_auroc(self.good_peaks, self.defect_peaks),
            "patch_auroc": self.patches.auroc(),
            "f1_max": f1.value if f1 else None,
            "iou": self.histogram.iou_at(LIMIT),
            "recall": self.histogram.recall_at(LIMIT),
            "precision": self.histogram.precision_at(LIMIT),
            "iou_max": iou.value if iou else None,
            "f1_max_score": f1.limit if f1 else None,
            "iou_max_score": iou.limit if iou else None,
            "parts": self.good + self.defective,
            "good": self.good,
            "defective": self.defective,
            "undecided": self.undecided,
        }

    def metrics_of_masks(self) -> Metrics:
        """Compute what the run's masks have of the defects; one that is undefined is ``None``."""
        defect_px, flagged_px = int(self.histogram.defect.sum()), self.flagged_defect_px + self.flagged_good_px
        return {
            "iou": self.flagged_defect_px / (defect_px + self.flagged_good_px) if defect_px else None,
            "recall": self.flagged_defect_px / defect_px if defect_px else None,
            "precision": self.flagged_defect_px / flagged_px if defect_px and flagged_px else None,
        }

    def metrics_of_verdicts(self) -> dict[str, Any]:
        """Compute how the run's verdicts did; a part is found if it failed, and a rate of nothing is ``None``."""
        counts = {
            truth: {verdict: self.verdicts[truth, verdict] for verdict in JUDGED} for truth in (GOOD, DEFECTIVE)
        }
        found, missed = counts[DEFECTIVE]["fail"], self.defective - counts[DEFECTIVE]["fail"]
        false_alarms = counts[GOOD]["fail"]
        return {
            "verdicts": counts,
            "image_f1": 2 * found / (2 * found + missed + false_alarms) if self.defective else None,
            "image_recall": found / self.defective if self.defective else None,
            "false_alarm_rate": false_alarms / self.good if self.good else None,
        }


#: Kind (``None`` for the good parts) and map (``FUSED`` for the heatmap) -> what was counted.
Tallies = dict[tuple[str | None, str], Tally]


def evaluate_run(
    run: Path,
    truth_folder: Path,
    on_part: Callable[[int, int, str], None] | None = None,
    on_patches: Callable[[dict[str, ScoreHistogram]], None] | None = None,
) -> dict[str, Any]:
    """Measure a run against the truth.

    Parameters
    ----------
    run
        A run folder, as ``inspect score`` writes it.
    truth_folder
        Masks or boxes, see ``Truth``.
    on_part
        Called after each part with its number from 1, the number of parts, and its id.
    on_patches
        Called at the end with the patches' scores by map, fused ones first.

    Returns
    -------
    The metrics of the fused score (keys of ``Tally.metrics`` and ``unfinished``, the parts without a result)
    over all parts, and the same keys below ``by_map`` (map), ``by_kind`` (kind, fused) and
    ``by_kind_and_map`` (kind, then map). A kind's group is its defective parts and all good parts.
    ``iou``, ``recall`` and ``precision`` are those of the run's own masks, of a single map at its limit.
    ``verdicts``, ``image_f1``, ``image_recall`` and ``false_alarm_rate`` are those of its verdicts.
    ``unmatched`` are the names that have a mask or a box and are no part of the run, ``doubts`` what there is to say
    of the truth's names, and of parts that do not count in all rows.

    Raises
    ------
    NoInputError
        If the run has no finished part, or the truth knows none of its parts.
    InputError
        If a record, a map or a mask is damaged, their sizes differ, or the parts were not all judged alike.
    """
    opened = _open(run, truth_folder)
    known = [*(record.part for _, record in opened.records), *opened.unfinished]
    of_names = {"unmatched": opened.truth.unmatched(known), "doubts": doubts(opened.truth, known)}
    tallies, unread = _count_run(opened, on_part)
    of_names["doubts"] += unread + _fewer_maps(opened.records)
    if on_patches is not None:
        on_patches(_patches_by_map(tallies))
    return _summarise(tallies, opened.unfinished) | of_names


def _fewer_maps(records: Sequence[tuple[Path, PartRecord]]) -> list[str]:
    """Return what to say where only some parts kept the maps that rows of single maps are measured on."""
    kept = sum("maps" in record.outputs for _, record in records)
    if kept in (0, len(records)):
        return []
    return [
        f"single maps are measured on {kept} of {len(records)} parts; the others were scored without --outputs maps"
    ]


def _patches_by_map(tallies: Tallies) -> dict[str, ScoreHistogram]:
    found: dict[str, ScoreHistogram] = {}
    for (_, name), tally in sorted(tallies.items(), key=lambda item: item[0][1]):
        found.setdefault(name or "all maps together", ScoreHistogram()).merge(tally.patches)
    return {name: patches for name, patches in found.items() if len(patches.codes)}


def fused_histogram(run: Path, truth_folder: Path, halo_share: float = 0.0, halo_px: int = 0) -> ScoreHistogram:
    """Return the pixels of a run by fused score, good and defective ones; raises as :func:`evaluate_run` does.

    Pixels of the halo of stronger ones, which no mask holds whatever the limit, count as 0; see
    :class:`~inspect_cli.scoring.halo.HaloTrimmer`.
    """
    opened = _open(run, truth_folder)
    counted = ScoreHistogram()
    for folder, record in opened.records:
        width, height = record.size_px
        mask, path = opened.truth.mask(record.part, height, width), folder / HEATMAP
        _check_is_there(path, record)
        y0 = 0
        for rows in without_halo(_rows(path, (height, width)), HaloTrimmer(halo_share, halo_px)):
            counted.add(rows, None if mask is None else mask[y0 : y0 + len(rows)])
            y0 += len(rows)
    return counted


def without_halo(
    bands: Iterable[tuple[int, NDArray[np.float32]]], trimmer: HaloTrimmer
) -> Iterator[NDArray[np.float32]]:
    """Yield rows of scores as they come, 0 where they belong to the halo of higher ones: in no mask at any limit."""
    waiting = (trimmer.push(rows * _LIFT, [rows]) for _, rows in bands)
    for block in chain(chain.from_iterable(waiting), trimmer.finish()):
        (rows,) = block.scores
        yield np.where(block.kept | ~np.isfinite(rows), rows, np.float32(0))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A run and its truth: the finished parts with their folders, the ids of the others, the tiles' side."""

    truth: Truth
    records: list[tuple[Path, PartRecord]]
    unfinished: frozenset[str]
    tile_px: int | None


def _count_run(opened: _Opened, on_part: Callable[[int, int, str], None] | None) -> tuple[Tallies, list[str]]:
    """Return what was counted of a run's parts, and why the patches of some were not."""
    tallies: Tallies = {}
    unread: list[str] = []
    for number, (folder, record) in enumerate(opened.records, start=1):
        unread += _count_part(tallies, folder, record, opened.truth, opened.tile_px)
        if on_part:
            on_part(number, len(opened.records), record.part)
    return tallies, unread


def _open(run: Path, truth_folder: Path) -> _Opened:
    truth = Truth.open(truth_folder)
    parts = find_parts(run)
    records = [(folder, read_part_record(folder)) for folder in parts.finished]
    if not records:
        raise NoInputError(f"{run}: no finished part in it; run `inspect score` first")
    judged_by = {(record.key.scoring, record.key.limits) for _, record in records}
    if parts.record is not None:
        judged_by.add((parts.record.scoring_sha256, parts.record.limits_sha256))
    if len(judged_by) > 1:
        raise InputError(
            f"{run}: not all parts were judged by the same model and limits, as after a run that was interrupted; "
            "run `inspect score` to its end"
        )
    batch = None if parts.record is None else parts.record.input
    pictures: dict[str, list[Path]] = {part: [] for part in parts.unfinished}
    for _, record in records:
        pictures[record.part] = [batch / entry.file for entry in record.maps.values()] if batch else []
    truth = truth.of_parts(pictures)
    if not any(truth.has(record.part) for _, record in records):
        raise NoInputError(
            f"{truth_folder}: no mask or box for any part of {run} (first part: {records[0][1].part}); "
            "name masks <part>_mask.png"
        )
    return _Opened(truth, records, parts.unfinished, None if parts.record is None else parts.record.tile_px)


def _count_part(tallies: Tallies, folder: Path, record: PartRecord, truth: Truth, tile_px: int | None) -> list[str]:
    """Count a part; return why its patches are left out, if they are."""
    width, height = record.size_px
    mask = truth.mask(record.part, height, width)
    if mask is not None and not mask.any():
        mask = None
    regions = None if mask is None else label_regions(mask)
    kind = None if mask is None else truth.kind(record.part)
    layers = _layers(folder, record)
    for layer in layers:
        tally = tallies.setdefault((kind, layer.name), Tally())
        tally.good += mask is None
        tally.defective += mask is not None
        tally.undecided += record.verdict == "undecided"
        if layer.name == FUSED:
            tally.verdicts[GOOD if mask is None else DEFECTIVE, record.verdict] += 1
        if layer.peak is not None:
            (tally.good_peaks if mask is None else tally.defect_peaks).append(layer.peak)
        _check_is_there(layer.path, record)
        if layer.flagged is not None and not layer.flagged.is_file():
            raise InputError(f"{layer.flagged}: missing; score {record.part} again")
        _count_pixels(tally, layer, mask, regions, (height, width))
    if tile_px is None:
        return []
    try:
        inside, least_px = inside_roi(folder, mask, regions)
        histograms = {layer.name: tallies[kind, layer.name].patches for layer in layers}
        count_patches(histograms, FUSED, folder, tile_px, inside, least_px)
    except InputError as error:
        return [f"left out of the patches: {error}"]
    return []


def _check_is_there(path: Path, record: PartRecord) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing; score {record.part} again, with --outputs heatmap or all")


def _layers(folder: Path, record: PartRecord) -> list[Layer]:
    layers = [Layer(FUSED, folder / HEATMAP, 1.0, record.score, folder / MASK)]
    for name, stored in record.maps.items() if "maps" in record.outputs else ():
        layers.append(Layer(name, folder / "maps" / f"{name}.tif", stored.limit, stored.score))
    return layers


def _count_pixels(
    tally: Tally,
    layer: Layer,
    mask: NDArray[np.bool_] | None,
    regions: NDArray[np.int32] | None,
    shape: tuple[int, int],
) -> None:
    """Count the pixels of a map; ``regions`` numbers the True pixels of ``mask`` in row order."""
    defects: list[NDArray[np.float32]] = []
    stored: NDArray[np.bool_] | None = None
    for y0, raw in _rows(layer.path, shape):
        scores = raw / np.float32(layer.limit)
        if layer.flagged is not None:
            stored = read_mask(layer.flagged, *shape) if stored is None else stored
            _count_flagged(
                tally, stored[y0 : y0 + len(scores)], None if mask is None else mask[y0 : y0 + len(scores)]
            )
        if mask is not None:
            defective = mask[y0 : y0 + len(scores)]
            defects.append(scores[defective])
            scores = scores[~defective]
        tally.histogram.add(scores)
    if regions is not None:
        # The area of a region within the ROI is known only now, with all its pixels seen.
        found = np.concatenate(defects)
        tally.histogram.add(found, np.ones(found.shape, dtype=np.bool_), region_weights(found, regions))


def _count_flagged(tally: Tally, flagged: NDArray[np.bool_], defective: NDArray[np.bool_] | None) -> None:
    hits = 0 if defective is None else int((flagged & defective).sum())
    tally.flagged_defect_px += hits
    tally.flagged_good_px += int(flagged.sum()) - hits


def _rows(path: Path, shape: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (y0, rows y0..) of a one-channel map, shape (rows, width), of at most ``BAND_ROWS`` rows."""
    with open_map(path) as source:
        height, width = source.header.height, source.header.width
        if (height, width) != shape:
            raise InputError(
                f"{path}: map is {width}x{height} px, its part.json says {shape[1]}x{shape[0]} px; "
                "score the part again"
            )
        for y0, stored in source.bands(BAND_ROWS):
            band = np.asarray(stored, dtype=np.float32)
            if bool((band < 0).any()):
                raise InputError(f"{path}: negative score near row {y0}; score the part again")
            yield y0, band


def _summarise(tallies: Tallies, unfinished: frozenset[str]) -> dict[str, Any]:
    maps = sorted({name for _, name in tallies if name != FUSED})
    kinds = sorted({kind for kind, _ in tallies if kind is not None})

    def metrics(name: str, *groups: str | None) -> Metrics:
        whole = Tally()
        for group in (None, *groups):
            if (group, name) in tallies:
                whole.merge(tallies[group, name])
        of_run = whole.metrics_of_masks() | whole.metrics_of_verdicts() if name == FUSED else {}
        return {**whole.metrics(), **of_run, "unfinished": len(unfinished)}

    return {
        **metrics(FUSED, *kinds),
        "by_map": {name: metrics(name, *kinds) for name in maps},
        "by_kind": {kind: metrics(FUSED, kind) for kind in kinds},
        "by_kind_and_map": {kind: {name: metrics(name, kind) for name in maps} for kind in kinds},
    }
