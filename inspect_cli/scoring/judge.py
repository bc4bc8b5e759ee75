"""Raw rows of every map -> fused score, regions and verdict of a part.

Late fusion: each map's residual is divided by its own limit and the largest of the scores counts, so that a
dent that only the normals see and a stain that only the albedo sees both reach 1.0 at their own limit.
The verdict fails closed: ``pass`` needs every ROI pixel finite, the acquisition check to hold, and a model that was
seen to tell defects.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from inspect_cli.arrays import Mask, Rows
from inspect_cli.scoring.halo import HaloTrimmer, Trimmed
from inspect_cli.scoring.precision import round_scores
from inspect_cli.scoring.regions import Region, RegionFinder

_LARGEST = float(np.finfo(np.float32).max)
_LEAST_DIVISOR = float(np.finfo(np.float32).tiny)


@dataclass
class MapPeak:
    """Largest residual of a map and where it lies."""

    raw_max: float = -1.0
    x_px: int = 0
    y_px: int = 0


@dataclass(frozen=True)
class Judgement:
    """What was found on one part; ``score`` is the peak of the fused map, None if nothing was scored."""

    verdict: str
    reasons: list[str]
    score: float | None
    peak_x_px: int
    peak_y_px: int
    peak_map: str | None
    map_peaks: dict[str, MapPeak]
    regions: list[Region]
    roi_px: int
    uncovered_px: int


@dataclass
class Judge:
    """Takes the maps of a part in blocks of rows and decides at the end.

    ``height`` is that of the image if there is no ROI; rows that never come count as uncovered. ``halo_share`` and
    ``halo_px`` trim the mask and the regions, see :class:`HaloTrimmer`.
    """

    limits: Mapping[str, float]
    width: int
    roi: Mask | None
    min_area_px: int
    height: int | None = None
    halo_share: float = 0.0
    halo_px: int = 0
    peaks: dict[str, MapPeak] = field(init=False)

    def __post_init__(self) -> None:
        self.peaks = {name: MapPeak() for name in self.limits}
        self._finder = RegionFinder(self.width, list(self.limits))
        self._trimmer = HaloTrimmer(self.halo_share, self.halo_px)
        self._y = self._roi_px = self._uncovered_px = 0

    def push(self, raw: Mapping[str, Rows]) -> tuple[Rows, Mask]:
        """Add a block of rows of every map (n, width); return the fused score of the block, and rows of the mask.

        The fused score is NaN where all maps are, as outside the ROI. Where only some could not be scored, the
        others count, but the pixel counts as uncovered. The mask lags behind: its rows are the next ones that are
        complete, none or more; :meth:`finish` returns the last ones.
        """
        scores = [_score(raw[name], limit) for name, limit in self.limits.items()]
        fused = round_scores(functools.reduce(np.fmax, scores))  # NaN where all are
        scores = scores if len(scores) > 1 else [fused]  # rows that wait are held once
        mask = self._found(self._trimmer.push(fused, scores))
        self._count(functools.reduce(np.logical_and, map(np.isfinite, scores)))
        for name in self.limits:
            self._note_peak(name, raw[name])
        self._y += len(fused)
        return fused, mask

    def finish(self) -> Mask:
        """Return the rows of the mask that are left after the last block."""
        return self._found(self._trimmer.finish())

    def _found(self, complete: Iterable[Trimmed]) -> Mask:
        """Add complete rows to the regions; return their mask."""
        kept = [np.empty((0, self.width), np.bool_)]
        for rows in complete:
            self._finder.push(*rows)
            kept.append(rows.kept)
        return np.concatenate(kept)

    def _count(self, scored: Mask) -> None:
        """Count rows of pixels that every map scored, or not."""
        if self.roi is None:
            self._roi_px += scored.size
            self._uncovered_px += scored.size - int(scored.sum())
        else:
            inside = self.roi[self._y : self._y + len(scored)]
            self._roi_px += int(inside.sum())
            self._uncovered_px += int((inside & ~scored).sum())

    def _note_peak(self, name: str, rows: Rows) -> None:
        if float(np.fmax.reduce(rows, axis=None)) <= self.peaks[name].raw_max:  # not so where infinite
            return
        values = np.where(np.isfinite(rows), rows, np.float32(-1))
        at = int(values.argmax())
        value = float(values.flat[at])
        if value > self.peaks[name].raw_max:
            self.peaks[name] = MapPeak(value, at % self.width, self._y + at // self.width)

    def score_of(self, name: str) -> float:
        """Return a map's peak score, at the precision of the stored maps; at most the largest float32."""
        peak = np.array([self.peaks[name].raw_max], np.float32)
        return float(np.nan_to_num(round_scores(_score(peak, self.limits[name])), nan=_LARGEST)[0])

    def _count_missing_rows(self) -> None:
        if self.roi is not None:
            missing = int(self.roi[self._y :].sum())
        else:
            missing = self.width * max(0, (self.height or 0) - self._y)
        self._roi_px += missing
        self._uncovered_px += missing

    def decide(self, acquisition_faults: Sequence[str], doubts: Sequence[str] = ()) -> Judgement:
        """Return the verdict.

        ``acquisition_faults`` are reasons not to trust the pictures: the part neither passes nor fails. ``doubts``
        keep it from passing, but not from failing.
        """
        self._count_missing_rows()
        self.finish()
        regions = self._finder.regions(self.min_area_px)
        reasons = list(acquisition_faults)
        if self._roi_px == 0:
            reasons.append("no pixel lies inside the ROI")
        if self._uncovered_px:
            reasons.append(f"{self._uncovered_px} ROI pixels have no finite score")
        reasons += doubts
        verdict = "undecided" if reasons else "pass"
        if regions:
            reasons.append(f"{len(regions)} region{'s' * (len(regions) > 1)} above the limit")
            verdict = "undecided" if acquisition_faults else "fail"
        scored = {n: p for n, p in self.peaks.items() if p.raw_max >= 0}
        top = max(scored, key=self.score_of, default=None)
        score = None if top is None else self.score_of(top)
        if score is not None and score > 1 and not regions and not self._uncovered_px:
            reasons.append(f"above the limit in fewer than {self.min_area_px} px side by side only")
        return Judgement(
            verdict=verdict,
            reasons=reasons,
            score=score,
            peak_x_px=0 if top is None else self.peaks[top].x_px,
            peak_y_px=0 if top is None else self.peaks[top].y_px,
            peak_map=top,
            map_peaks=self.peaks,
            regions=regions,
            roi_px=self._roi_px,
            uncovered_px=self._uncovered_px,
        )


def _score(raw: Rows, limit: float) -> Rows:
    """Return ``raw`` in units of the limit; what is not finite, before or after, is NaN."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        score = np.divide(raw, max(limit, _LEAST_DIVISOR), dtype=np.float32)
    score[~np.isfinite(score)] = np.nan
    return score
