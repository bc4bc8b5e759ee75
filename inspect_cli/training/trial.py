"""What a trained detector makes of artificial defects in held-out good material.

Windows of the validation parts are scored in the same way as parts are, plain and with defects of kinds that no
method is trained with (``corruptions/trial.py``), so that methods with tiles of different sizes are shown the same.
The measure is the area under the ROC curve of the pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask
from inspect_cli.corruptions.trial import CHANGED, KINDS, trial_defects
from inspect_cli.engines import Engine, TorchEngine
from inspect_cli.errors import NoInputError
from inspect_cli.evaluation.metrics import ScoreHistogram
from inspect_cli.images import ImageHeader, MapReader, ValueRange
from inspect_cli.images.values import Preprocess
from inspect_cli.material.manifest import Trial
from inspect_cli.tiles.tiling import TILE_PX, Tiling
from inspect_cli.training.batches import MapTraining
from inspect_cli.training.budget import CHECK_SHARE
from inspect_cli.training.order import TrainingOrder, tiling_for
from inspect_cli.training.scorer import Scorer
from inspect_cli.training.sources import Sources, good_sampler

#: Side of the windows in tiles of the recipe, where the images allow it: 512 px, unless it names another tile.
WINDOW_TILES: Final = 4
#: Pixels that are looked at without defects, and once more for each kind; so many windows at least, where there is
#: time, and so many in any case.
MOST_PX: Final = 1_500_000
_FEW: Final = 4
_FEWEST: Final = 2
#: Windows that are cut for each one that is looked at: those with material in them are taken.
_CUT: Final = 2
#: A square whose values differ by less holds no material, and no defect that could be seen.
_PLAIN: Final = 5e-4
#: A pixel shows a defect if one so near moved by so many standard deviations of the square.
_VISIBLE: Final = 0.1
_NEAR_PX: Final = 15
#: Shares of ``MOST_PX`` for each second or step of a budget: a trial must not take longer than what it judges.
_SHARE_OF_SECOND: Final = 1 / 120
_SHARE_OF_STEP: Final = 1 / 1200
#: Step of the patch source that the windows come from: apart from all others.
_STEP: Final = 2**34


@dataclass(frozen=True)
class Kinds:
    """Area under the ROC curve of one map's pixels, by kind of defect."""

    auroc: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over the kinds."""
        return float(np.mean(list(self.auroc.values())))


@dataclass(frozen=True)
class Windows:
    """Good material (n, channels, side, side), unit range; the ROI (n, side, side), None for everything; the fill."""

    pixels: NDArray[np.float32]
    roi: Mask | None
    fill: tuple[float, ...]

    def first(self, count: int) -> Windows:
        """Return the first ``count`` of them, or all if there are no more."""
        return Windows(self.pixels[:count], None if self.roi is None else self.roi[:count], self.fill)


def trial_windows(job: MapTraining, order: TrainingOrder, name: str, sources: Sources) -> Windows:
    """Cut windows of the validation parts, as many as fit the budget, those with most material in them first.

    Raises
    ------
    NoInputError
        If no window shows as much of the ROI as a patch must.
    """
    recipe = order.material.recipe
    side = max(min(sources.survey.common_px, WINDOW_TILES * (recipe.tiles.size_px or TILE_PX)), TILE_PX)
    steps, seconds = job.budget.steps, job.budget.seconds
    share = seconds * _SHARE_OF_SECOND if seconds is not None else (steps or 0) * _SHARE_OF_STEP
    fit = 2 * MOST_PX // side**2
    count = max(_FEWEST, min(_FEW, fit), round(min(1.0, share) * MOST_PX / side**2))
    # As many pixels of the ROI as in a patch of 128 px to learn from, so that methods with other tiles are shown the
    # same, and because a narrow part never fills half of a large window.
    share = recipe.training.min_roi_share * min(1.0, (recipe.tiles.size_px or TILE_PX) / side) ** 2
    loose = recipe.model_copy(update={"training": recipe.training.model_copy(update={"min_roi_share": share})})
    source = good_sampler(sources, name, loose, side, job.seed + 1, validation=True)
    try:
        patches, masks = source.batch(_STEP, max(count, min(_CUT * count, fit)))
    finally:
        source.close()
    pixels = job.preprocess.to_network(patches, masks)
    material = [_material(unit, None if masks is None else masks[n]).sum() for n, unit in enumerate(pixels)]
    most = np.argsort(-np.array(material), kind="stable")[:count]
    return Windows(pixels[most], None if masks is None else masks[most], job.preprocess.fill)


def measure_trial(job: MapTraining, order: TrainingOrder, name: str, sources: Sources) -> Kinds:
    """Return how well a trained job's detector tells artificial defects from good material, by kind of defect.

    Raises
    ------
    NoInputError
        If there is no window to show it, or no defect lies inside the ROI.
    """
    windows = trial_windows(job, order, name, sources)
    engine, tiling = TorchEngine(job.detector, job.device), tiling_for(order, sources)
    if job.budget.seconds is not None:
        windows = _affordable(windows, engine, tiling, CHECK_SHARE * job.budget.seconds)
    return kinds_told(windows, engine, tiling, job.seed)


def _affordable(windows: Windows, engine: Engine, tiling: Tiling, most_s: float) -> Windows:
    """Return as many windows as there is time to score, plain and with each kind, judged by the first one's time."""
    started = time.monotonic()
    scored(windows.first(1), windows.pixels[:1], engine, tiling)
    each_s = (time.monotonic() - started) * (1 + len(KINDS))
    return windows.first(max(_FEWEST, int(most_s / each_s)))


def trial_of(method: str, measured: Sequence[Kinds], steps: int, seconds: float, doubtful: bool = False) -> Trial:
    """Return what the manifest keeps of a candidate: the mean over maps, in all and by kind."""
    by_kind = {kind: round(float(np.mean([found.auroc[kind] for found in measured])), 4) for kind in KINDS}
    mean = float(np.mean([found.mean for found in measured]))
    return Trial(
        method=method,
        pixel_auroc=round(mean, 4),
        by_kind=by_kind,
        steps=steps,
        seconds=round(seconds, 1),
        doubtful=doubtful,
    )


def kinds_told(windows: Windows, engine: Engine, tiling: Tiling, seed: int) -> Kinds:
    """Return how well the scores of an engine tell artificial defects in ``windows`` from the rest of them."""
    plain = ScoreHistogram()
    for score in scored(windows, windows.pixels, engine, tiling):
        plain.add(score)
    found = {}
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng([seed, 11, number])
        damaged, changed = with_defects(kind, windows.pixels, windows.roi, rng)
        histogram = ScoreHistogram()
        histogram.merge(plain)
        for score, mask in zip(scored(windows, damaged, engine, tiling), changed, strict=True):
            histogram.add(score, mask)
        area = histogram.auroc()
        if area is None:
            raise NoInputError(
                f"no artificial defect ({kind}) can be seen: too little material inside the ROI of the held-out parts"
            )
        found[kind] = area
    return Kinds(found)


def with_defects(
    kind: str, pixels: NDArray[np.float32], roi: Mask | None, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Mask]:
    """Return copies with a defect of ``kind`` in every other square of 128 px, as on a chessboard; and where.

    Those squares are taken that hold more material. What cannot be seen is no defect: on an even background to move
    or to wear what is there changes nothing.

    Parameters
    ----------
    pixels
        (n, channels, side, side), unit range.
    roi
        (n, side, side), or None for everything.

    Returns
    -------
    The damaged copies, and (n, side, side), True where a pixel was replaced for the most part and a change is near.
    """
    damaged = pixels.copy()
    changed = np.zeros((len(pixels), *pixels.shape[2:]), bool)
    material = sum(_material(unit, None if roi is None else roi[n]) for n, unit in enumerate(pixels))
    rows, columns = np.indices(np.shape(material))
    odd = (rows + columns) % 2
    parity = int(np.sum(material * odd) > np.sum(material * (1 - odd)))
    for row, column in np.argwhere(odd == parity).tolist():
        where = (..., slice(row * TILE_PX, (row + 1) * TILE_PX), slice(column * TILE_PX, (column + 1) * TILE_PX))
        clean = np.ascontiguousarray(pixels[where])
        defects = trial_defects(kind, clean, rng)
        damaged[where] = defects.patches
        changed[where] = (defects.changed[:, 0] > CHANGED) & _seen(clean, defects.patches)
    return damaged, changed


def _material(pixels: NDArray[np.float32], roi: Mask | None) -> NDArray[np.float64]:
    """Return how much of each square of 128 px (rows, columns) of a window is material inside the ROI, 0 to 1."""
    count = pixels.shape[1] // TILE_PX
    shares = np.zeros((count, count))
    for row, column in np.ndindex(count, count):
        where = (slice(row * TILE_PX, (row + 1) * TILE_PX), slice(column * TILE_PX, (column + 1) * TILE_PX))
        if pixels[:, *where].std(axis=(1, 2)).max() > _PLAIN:
            shares[row, column] = 1.0 if roi is None else roi[where].mean()
    return shares


def _seen(clean: NDArray[np.float32], damaged: NDArray[np.float32]) -> Mask:
    """Return where a change of squares (n, channels, side, side) can be seen near by, (n, side, side)."""
    least = np.maximum(_VISIBLE * clean.std(axis=(2, 3), keepdims=True), _PLAIN)
    moved = (np.abs(damaged - clean) > least).any(axis=1)
    near = np.ones((_NEAR_PX, _NEAR_PX), np.uint8)
    return np.stack([cv2.dilate(square.astype(np.uint8), near) > 0 for square in moved])


def scored(
    windows: Windows, pixels: NDArray[np.float32], engine: Engine, tiling: Tiling
) -> list[NDArray[np.float32]]:
    """Return the anomaly map (side, side) of each window, NaN outside the ROI, made as those of parts are."""
    scorer = Scorer(Preprocess(ValueRange(0.0, 1.0), windows.fill, "float32"), engine, tiling)
    maps = []
    for number, unit in enumerate(pixels):
        roi = None if windows.roi is None else windows.roi[number]
        maps.append(np.concatenate(list(scorer.stream(_Window(np.moveaxis(unit, 0, 2)), roi).rows())))
    return maps


class _Window(MapReader):
    """Pixels (height, width, channels) in memory, read as if they were an image."""

    def __init__(self, pixels: NDArray[np.float32]) -> None:
        height, width, channels = pixels.shape
        self._pixels = pixels if channels > 1 else pixels[..., 0]
        self.header = ImageHeader(Path("window"), "memory", width, height, channels, pixels.dtype)

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return some rows."""
        return self._pixels[y0:y1]
