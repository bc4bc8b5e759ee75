"""How bright a part is at each place against what is usual there: stains on parts that always lie alike.

An image is reduced to the means of cells, smoothed, laid onto the average good part and compared with it. Light that
changes from part to part is taken out of the difference first: it multiplies what the part reflects, more on one side
than on the other. What is left counts by how much good parts differ at that place, which is most at edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Cells, Mask
from inspect_cli.images.reader import MapReader
from inspect_cli.images.reduced import BlockReducer
from inspect_cli.images.values import ValueRange
from inspect_cli.scoring.registration import AT_REST, Motion, motion_of, onto_usual
from inspect_cli.scoring.smooth import smoothed

#: Rounds of the fit of the light, in each of which what fits badly counts less, and rounds in which the spread of
#: good parts is found.
_ROUNDS: Final = 12
_SPREAD_ROUNDS: Final = 2
#: Median of absolute values to a standard deviation.
_MEDIAN_TO_DEVIATION: Final = 1.4826
#: Added to the variance of each place, in units of the mean one, and the least standard deviation, of the unit range.
_LEAST_SHARE: Final = 0.25
_LEAST_DEVIATION: Final = 0.002
#: Standard deviation of the smoothing over cells, and rounds in which the average part is found.
SMOOTH_CELLS: Final = 1.0
_LAID_ROUNDS: Final = 2
#: Quantiles of brightness by which parts are compared before it is known how they lie.
_LEVELS: Final = np.linspace(0.05, 0.95, 10)
#: Standard deviations from which on a distance counts as it is, not squared.
_FAR: Final = 4.0
#: Rows of cells that are read at once.
_ROWS_OF_CELLS: Final = 8
#: Least share of a cell that must lie inside the ROI, and least share of the good parts that must know a place.
_LEAST_INSIDE: Final = 0.5
_LEAST_KNOWN: Final = 0.5


@dataclass(frozen=True)
class UsualBrightness:
    """The average good part as smoothed means of cells, and how much good parts differ from it at each place.

    Attributes
    ----------
    mean, precision
        (rows, columns, channels), unit range and one over its variance; NaN and 0 where good parts are not known.
    weight
        What a squared distance of one standard deviation adds to a score.
    turned
        Whether parts lie at any angle.
    """

    mean: Cells
    precision: Cells
    weight: float = 1.0
    turned: bool = False

    @classmethod
    def learnt(cls, parts: NDArray[np.float32]) -> Self:
        """Learn from good parts as :func:`laid_alike` returns them."""
        mean, count = _average(parts), np.isfinite(parts).sum(axis=0)
        enough = np.isfinite(mean)
        precision = enough.astype(np.float32)
        for _ in range(_SPREAD_ROUNDS):
            rests = np.stack([_without_light(cells, mean, precision) for cells in parts])
            variance = (rests**2).sum(axis=0) / np.maximum(count - 1, 1)
            least = _LEAST_SHARE * _mean_where(variance, enough) + _LEAST_DEVIATION**2
            precision = np.where(enough, 1 / (variance + least), 0).astype(np.float32)
        return cls(mean, precision)

    def found(self, cells: Cells) -> tuple[Cells, Motion]:
        """Return a part's cells (rows, columns, channels) smoothed and laid onto the average part, and how it lay."""
        smooth = smoothed(cells, SMOOTH_CELLS)
        motion = motion_of(smooth, self.mean, self.turned)
        return onto_usual(smooth, motion), motion

    def distance(self, laid: Cells) -> Cells:
        """Return the squared distance of a part's cells from what is usual, (rows, columns), mean over channels.

        1 on average for good parts, or less; 0 where the part or good ones are not known. Beyond four standard
        deviations it grows with the distance itself: the soft edge of a stain is no halo of its middle. ``laid`` are
        cells as :meth:`found` returns them.
        """
        rest = _without_light(laid, self.mean, self.precision)
        square = (rest**2 * self.precision).mean(axis=2)
        return np.asarray(np.where(square <= _FAR**2, square, _FAR * np.sqrt(square)), np.float32)


def laid_alike(parts: NDArray[np.float32], turned: bool = False) -> tuple[NDArray[np.float32], list[Motion]]:
    """Return the cells of good parts (parts, rows, columns, channels) smoothed and laid onto their average.

    With how each lay; NaN outside a part's ROI and beyond its picture. ``turned`` parts may lie at any angle: they
    are laid onto one of them first.
    """
    smooth = np.stack([smoothed(cells, SMOOTH_CELLS) for cells in parts])
    laid, motions = smooth, [AT_REST] * len(smooth)
    mean = smooth[_ordinary(smooth)] if turned else _average(smooth)
    for _ in range(_LAID_ROUNDS):
        motions = [motion_of(cells, mean, turned) for cells in smooth]
        laid = np.stack([onto_usual(cells, motion) for cells, motion in zip(smooth, motions, strict=True)])
        mean = _average(laid)
    return laid, motions


def _ordinary(parts: NDArray[np.float32]) -> int:
    """Return which of parts (parts, rows, columns, channels) has grey values distributed most like the others'."""
    levels = np.quantile(np.nan_to_num(parts), _LEVELS, axis=(1, 2, 3))
    return int(np.abs(levels - np.median(levels, axis=1, keepdims=True)).sum(axis=0).argmin())


def _average(parts: NDArray[np.float32]) -> Cells:
    """Return the mean of parts (parts, rows, columns, channels), NaN where less than half of them are known."""
    known = np.isfinite(parts)
    total = np.where(known, parts, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known.mean(axis=0) >= _LEAST_KNOWN, total, np.nan).astype(np.float32)


def cell_means(reader: MapReader, values: ValueRange, roi: Mask | None, cell_px: int) -> Cells:
    """Return the mean of each cell of an image inside the ROI, (rows, columns, channels), unit range.

    NaN where more than half of a cell lies outside. The image is read once, a few rows at a time.
    """
    sums, inside = BlockReducer(cell_px, "mean"), BlockReducer(cell_px, "mean")
    for top, rows in reader.bands(_ROWS_OF_CELLS * cell_px):
        unit = values.to_unit(rows)
        unit = unit if unit.ndim == 3 else unit[..., None]
        if roi is not None:
            where = roi[top : top + len(rows)]
            unit = np.where(where[..., None], unit, np.float32(0))
            inside.push(where.astype(np.float32))
        sums.push(unit)
    if roi is None:
        return sums.result()
    share = inside.result()[..., None]
    return np.asarray(np.where(share >= _LEAST_INSIDE, sums.result() / np.maximum(share, 1e-6), np.nan), np.float32)


def _mean_where(values: NDArray[np.floating], where: Mask) -> NDArray[np.float64]:
    """Return the mean of each channel of (rows, columns, channels) where ``where`` holds."""
    return np.asarray(np.where(where, values, 0).sum(axis=(0, 1)) / np.maximum(where.sum(axis=(0, 1)), 1))


def _without_light(cells: Cells, mean: Cells, precision: Cells) -> NDArray[np.float64]:
    """Return how far cells (rows, columns, channels) lie from the mean, less what other light explains.

    That is an offset, and a factor of the mean that changes along both axes. A stain that does not fit such light
    counts little in the fit (weights of the Cauchy distribution). 0 where the cell or the mean is not known.
    """
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, length) for length in cells.shape[:2]), indexing="ij")
    rest = np.zeros(cells.shape)
    for channel in range(cells.shape[2]):
        usual = mean[..., channel]
        known = np.isfinite(cells[..., channel]) & np.isfinite(usual)
        if not known.any():
            continue
        level = usual[known].astype(np.float64)
        light = np.stack([np.ones_like(level), level, level * rows[known], level * columns[known]], axis=1)
        away = cells[..., channel][known] - level
        sharp = precision[..., channel][known].astype(np.float64)
        weight = sharp
        for _ in range(_ROUNDS):
            weighed = light.T * weight
            left = away - light @ np.linalg.lstsq(weighed @ light, weighed @ away, rcond=None)[0]
            far = left**2 * sharp
            weight = sharp / (1 + far / np.maximum(_MEDIAN_TO_DEVIATION**2 * np.median(far), 1e-12))
        rest[..., channel][known] = left
    return rest
