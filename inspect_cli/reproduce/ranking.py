"""Areas and maxima over the scores of single images: one number an image, more is worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class _Flagged(NamedTuple):
    """Defective and all images at or above each distinct score, highest score first."""

    defective: Floats
    all: Floats


def average_precision(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """Return the area under the precision-recall curve, defective images being the positive ones.

    Precision at every distinct score, weighted with the gain in recall there; None without defective images.
    """
    if not defective:
        return None
    flagged = _flagged(good, defective)
    gain = np.diff(flagged.defective, prepend=0.0)
    return float(gain @ (flagged.defective / flagged.all) / len(defective))


def f1_at(limit: float, good: Sequence[float], defective: Sequence[float]) -> float | None:
    """Return F1 = TP / (TP + (FP + FN) / 2) where scores from ``limit`` on count as defective, the positive class.

    None without defective images.
    """
    if not defective:
        return None
    found = sum(score >= limit for score in defective)
    false_alarms = sum(score >= limit for score in good)
    return 2 * found / (found + false_alarms + len(defective))


def best_f1(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """Return the largest F1 = TP / (TP + (FP + FN) / 2) over all limits, defective images being the positive ones.

    None without defective images.
    """
    if not defective:
        return None
    flagged = _flagged(good, defective)
    return float((2 * flagged.defective / (flagged.all + len(defective))).max())


def _flagged(good: Sequence[float], defective: Sequence[float]) -> _Flagged:
    scores = np.concatenate([defective, good])
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(order < len(defective))[last_of_ties]
    return _Flagged(hits.astype(np.float64), last_of_ties + 1.0)
