"""Exact metrics over any number of pixels, from histograms with one bin a score.

Scores are stored with 19 significant bits (``inspect_cli.scoring.precision``), so a histogram over the codes
loses nothing: areas, overlaps and maxima equal those from the sorted pixels. A pixel is flagged when its
score is above the limit. Pixels outside the region of interest (scores that are not finite) are no pixels:
they are neither good nor defective, and no part of a region's area. A metric that is undefined is ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from inspect_cli.scoring.precision import (
    CODE_COUNT,
    FIRST_NON_FINITE_CODE,
    code_value,
    round_scores,
    score_code,
)

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class Best(NamedTuple):
    """The largest value of a metric over all limits, and a limit that reaches it."""

    value: float
    limit: float


class _Curve(NamedTuple):
    """Counts of flagged pixels when the limit falls through the scores, highest first."""

    flagged_defect: Floats
    flagged_good: Floats


@dataclass(slots=True)
class ScoreHistogram:
    """Good and defect pixels per score code; only codes that occur are kept, in ascending order.

    ``codes``, ``good``, ``defect`` and ``weight`` are of one length. ``weight`` is the sum, over the defect
    pixels of a bin, of 1 / area of the pixel's region: summed over all bins it is the number of regions.
    """

    codes: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    good: Counts = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    defect: Counts = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    weight: Floats = field(default_factory=lambda: np.zeros(0, dtype=np.float64))

    def add(
        self,
        scores: NDArray[Any],
        mask: NDArray[np.bool_] | None = None,
        region_weight: NDArray[Any] | None = None,
    ) -> None:
        """Count the pixels of an array of any shape.

        Parameters
        ----------
        scores
            Non-negative scores, 1.0 at the limit; rounded here to the stored precision. Pixels that are not
            finite are left out.
        mask
            True where defective, same shape; without it all pixels are good.
        region_weight
            1 / area of the region a defect pixel belongs to, same shape, ignored where the mask is False;
            without it the pixels belong to no region.

        Raises
        ------
        ValueError
            If a score is negative or the shapes differ.
        """
        for other in (mask, region_weight):
            if other is not None and other.shape != scores.shape:
                raise ValueError(f"shapes differ: scores {scores.shape}, mask or weight {other.shape}")
        codes = score_code(round_scores(scores))
        if mask is None:
            good, defect, weight = _dense(codes.ravel()), None, None
        else:
            good, defect = _dense(codes[~mask]), _dense(codes[mask])
            weight = None if region_weight is None else _dense(codes[mask], region_weight[mask])
        found = np.flatnonzero(good if defect is None else good + defect)
        nothing = np.zeros(found.size)
        self.merge(
            ScoreHistogram(
                codes=found,
                good=good[found].astype(np.int64),
                defect=(nothing if defect is None else defect[found]).astype(np.int64),
                weight=nothing if weight is None else weight[found],
            )
        )

    def merge(self, other: ScoreHistogram) -> None:
        """Add the pixels of another histogram to this one."""
        codes = np.union1d(self.codes, other.codes)
        mine, theirs = np.searchsorted(codes, self.codes), np.searchsorted(codes, other.codes)
        self.good = _spread(codes.size, mine, self.good, theirs, other.good)
        self.defect = _spread(codes.size, mine, self.defect, theirs, other.defect)
        self.weight = _spread(codes.size, mine, self.weight, theirs, other.weight)
        self.codes = codes

    def auroc(self) -> float | None:
        """Area under the ROC curve of the pixels, ties counted half.

        ``None`` without defect pixels or without good ones.
        """
        good, defect = self.good.astype(np.float64), self.defect.astype(np.float64)
        pairs = good.sum() * defect.sum()
        if pairs == 0:
            return None
        below = np.cumsum(good) - good / 2
        return float(defect @ below / pairs)

    def average_precision(self) -> float | None:
        """Average precision: precision at every score, weighted with the gain in recall there.

        ``None`` without defect pixels.
        """
        if not self.defect.any():
            return None
        curve = self._curve()
        precision = curve.flagged_defect / (curve.flagged_defect + curve.flagged_good)
        return float(self.defect[::-1] @ precision / curve.flagged_defect[-1])

    def au_pro(self, fpr_limit: float = 0.3) -> float | None:
        """Mean per-region overlap, integrated over false-positive rates up to a limit, divided by the limit.

        Every region weighs the same whatever its area; trapezoids, with interpolation at the limit (Bergmann
        et al., MVTec AD, IJCV 2021, section 5.3). ``None`` without regions or without good pixels.
        """
        curve = self._curve()
        regions = self.weight.sum()
        if regions == 0 or curve.flagged_good[-1] == 0:
            return None
        rate = np.concatenate(([0.0], curve.flagged_good / curve.flagged_good[-1]))
        overlap = np.concatenate(([0.0], np.cumsum(self.weight[::-1]) / regions))
        inside = int(np.searchsorted(rate, fpr_limit, side="right"))
        at_limit = overlap[inside - 1]
        if inside < rate.size:
            share = (fpr_limit - rate[inside - 1]) / (rate[inside] - rate[inside - 1])
            at_limit += share * (overlap[inside] - overlap[inside - 1])
        rate = np.append(rate[:inside], fpr_limit)
        overlap = np.append(overlap[:inside], at_limit)
        return float(np.diff(rate) @ (overlap[1:] + overlap[:-1]) / 2 / fpr_limit)

    def f1_max(self) -> Best | None:
        """Largest F1 of the pixels over all limits; ``None`` without defect pixels."""
        if not self.defect.any():
            return None
        curve = self._curve()
        flagged = curve.flagged_defect + curve.flagged_good
        return self._best(2 * curve.flagged_defect / (flagged + curve.flagged_defect[-1]))

    def iou_max(self) -> Best | None:
        """Largest intersection over union of flagged and defect pixels over all limits; ``None`` as F1."""
        if not self.defect.any():
            return None
        curve = self._curve()
        return self._best(curve.flagged_defect / (curve.flagged_good + curve.flagged_defect[-1]))

    def iou_at(self, limit: float) -> float | None:
        """Intersection over union of flagged and defect pixels; ``None`` without defect pixels."""
        defect, good = self._flagged(limit)
        return _share(defect, good + int(self.defect.sum())) if self.defect.any() else None

    def recall_at(self, limit: float) -> float | None:
        """Share of the defect pixels that are flagged: A of the IND paper, eq. 7; ``None`` without any."""
        return _share(self._flagged(limit)[0], int(self.defect.sum()))

    def recall_max(self, least_iou: float) -> float | None:
        """Largest recall over all limits whose IoU is at least ``least_iou``; ``None`` if there is no such limit."""
        if not self.defect.any():
            return None
        curve = self._curve()
        total = curve.flagged_defect[-1]
        reached = curve.flagged_defect[curve.flagged_defect / (curve.flagged_good + total) >= least_iou]
        return float(reached.max() / total) if reached.size else None

    def precision_at(self, limit: float) -> float | None:
        """Share of the flagged pixels that are defective; ``None`` if nothing is flagged or defective."""
        defect, good = self._flagged(limit)
        return _share(defect, defect + good) if self.defect.any() else None

    def _curve(self) -> _Curve:
        if not self.codes.size:
            return _Curve(np.zeros(1), np.zeros(1))
        return _Curve(
            np.cumsum(self.defect[::-1]).astype(np.float64),
            np.cumsum(self.good[::-1]).astype(np.float64),
        )

    def _best(self, falling: Floats) -> Best:
        """Find the maximum of a metric given per lowest flagged score, highest score first.

        The limit lies half way to the next lower score: 0 if there is none, and -1 where the best is to flag
        everything although the lowest score is 0.
        """
        at = falling.size - 1 - int(np.argmax(falling))
        lowest = float(code_value(self.codes[at]))
        below = float(code_value(self.codes[at - 1])) if at else 0.0
        return Best(float(falling.max()), (lowest + below) / 2 if lowest > 0 else -1.0)

    def _flagged(self, limit: float) -> tuple[int, int]:
        above = code_value(self.codes).astype(np.float64) > limit
        return int(self.defect[above].sum()), int(self.good[above].sum())


def _dense(codes: NDArray[np.uint32], weights: NDArray[Any] | None = None) -> NDArray[Any]:
    """Count (or sum the weights of) every finite code; length ``FIRST_NON_FINITE_CODE``."""
    return np.bincount(codes, weights, minlength=CODE_COUNT)[:FIRST_NON_FINITE_CODE]


def _spread(
    size: int, at: NDArray[Any], values: NDArray[Any], other_at: NDArray[Any], others: NDArray[Any]
) -> NDArray[Any]:
    result = np.zeros(size, dtype=values.dtype)
    result[at] = values
    result[other_at] += others
    return result


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def label_regions(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the 8-connected regions of a mask.

    Returns
    -------
    For each True pixel of the mask (height, width), in row order, the number of its region, from 1.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros(0, dtype=np.int32)
    # The box around all defects is enough: labels of a whole map are four times the mask's memory.
    box = np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    labels: NDArray[np.int32] = cv2.connectedComponents(box.view(np.uint8), connectivity=8)[1]
    return labels[box]


def region_weights(scores: NDArray[np.float32], regions: NDArray[np.int32]) -> Floats:
    """Give each defect pixel 1 / area of its region, the area counted over finite scores alone.

    Parameters
    ----------
    scores, regions
        One entry a defect pixel, in the same order; regions from ``label_regions``.
    """
    area = np.bincount(regions[np.isfinite(scores)], minlength=int(regions.max(initial=0)) + 1)
    return (1.0 / np.maximum(area, 1))[regions]


def rank_auroc(good: Sequence[float], defect: Sequence[float]) -> float | None:
    """Probability that a defective part scores higher than a good one, ties counted half.

    The Mann-Whitney statistic over the peak scores of the parts; ``None`` if a side is empty.
    """
    if not good or not defect:
        return None
    ranks = rankdata(np.concatenate((defect, good)))
    above = ranks[: len(defect)].sum() - len(defect) * (len(defect) + 1) / 2
    return float(above / (len(good) * len(defect)))
