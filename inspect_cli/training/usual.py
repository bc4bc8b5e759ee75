"""Whether the good parts of a material always lie alike, and what is then usual at each place of the image."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from inspect_cli.arrays import Cells, Mask
from inspect_cli.console import Teller
from inspect_cli.engines import TorchEngine
from inspect_cli.images import Part, open_map
from inspect_cli.images.reduced import BlockReducer, reduction
from inspect_cli.material.bundle import write_usual
from inspect_cli.material.manifest import LEAST_LIMIT, Usual
from inspect_cli.pictures.previews import save_usual
from inspect_cli.scoring.brightness import UsualBrightness, cell_means, laid_alike
from inspect_cli.scoring.outliers import outliers
from inspect_cli.scoring.registration import Motion, of_shape, onto_usual
from inspect_cli.scoring.smooth import smoothed
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.training.batches import MapTraining
from inspect_cli.training.budget import USUAL_MOST_SHARE, USUAL_SHARE
from inspect_cli.training.order import TrainingOrder, tiling_for
from inspect_cli.training.prepare import Survey
from inspect_cli.training.scorer import Scorer
from inspect_cli.training.sources import Sources

#: What good parts score at each place of a map, beside its weights.
PICTURE: Final = "usual_{map}.png"
#: Parts that are looked at: more change little, fewer say too little. Of some only the brightness is taken.
MOST_PARTS: Final = 32
LEAST_LEARNT: Final = 6
#: So few places tell nothing of a correlation.
_LEAST_PLACES: Final = 6
LEAST_SCORED: Final = 3
#: Pixels that are scored by a budget in steps.
_MOST_PX: Final = 16_000_000
#: Side of the window by which the time of a pixel is found out.
_TRIED_PX: Final = 512
#: Least side of a cell, and cells along the longer side at most.
_CELL_PX: Final = 4
_MOST_CELLS: Final = 256
#: By how much images may differ in size, as a share of the longer side.
_MOST_SLACK: Final = 0.05
#: Share of the parts that must be of about one size.
_COMMON_SHARE: Final = 0.9
#: Standard deviation of the smoothing over cells.
_SMOOTH_CELLS: Final = 1.0
#: How high good parts go at a place: the quantile over parts.
_HIGH: Final = 0.9
#: Scores are raised to twice at most where good parts score low, and divided by three at most where they score high:
#: a defect there must still be seen.
_LEAST: Final = 0.5
_MOST: Final = 3.0
#: The highest place of an ordinary good part gains by its brightness this share of the part's highest score.
_BRIGHTNESS_SHARE: Final = 0.35
#: Groups of parts, of each of which the others say how bright it should be.
_GROUPS: Final = 4
#: Least rank correlation over places, on average between two parts, with which parts lie alike. Pictures of parts in
#: a fixture have .7 and more, cloth with the same borders up to .4.
LEAST_ALIKE: Final = 0.5
#: Parts lie at any angle if that makes them more alike by so much.
_TURNED_GAINS: Final = 0.1


class Odd(NamedTuple):
    """A part of unusual brightness: where most, and how many times what is usual for a part's most unusual place."""

    part: str
    x_px: int
    y_px: int
    times_usual: float


class Found(NamedTuple):
    """What was learnt, None where parts do not lie alike; how alike they lie, and by how many that is known.

    What brightness is usual was learnt without the ``odd`` parts.
    """

    usual: UsualMap | None
    alike: float
    parts: int
    odd: Sequence[Odd] = ()


class Learnt(NamedTuple):
    """What is usual at each place of a map, its entry in the manifest, and what there is to warn of."""

    usual: UsualMap
    entry: Usual
    warnings: list[str]


class _Laid(NamedTuple):
    """Brightness (parts, rows, columns, channels) and scores (parts, rows, columns) as the average part lies.

    How each part lies, by which its brightness was laid so, and how alike they lie by their scores.
    """

    bright: Cells
    motions: Sequence[Motion]
    scores: Cells
    alike: float


def usual_of(order: TrainingOrder, name: str, job: MapTraining, sources: Sources, teller: Teller) -> Learnt | None:
    """Learn what is usual at each place of a trained map, tell it, and write it with a picture.

    None where parts do not lie alike, that cannot be told, or the recipe does not ask for it.
    """
    recipe, folder = order.material.recipe, order.bundle_folder
    picture = folder / PICTURE.format(map=name)
    picture.unlink(missing_ok=True)  # of the model before
    if not recipe.training.usual_map or job.detector.supervised:
        return None
    scorer = Scorer(job.preprocess, TorchEngine(job.detector, job.device), tiling_for(order, sources))
    found = learn_usual(scorer, sources, name, job.budget.seconds)
    if isinstance(found, str):
        teller.say(f"{name:>10}  what is usual at a place is not learnt: {found}")
        return None
    says = f"{name:>10}  good parts score high at the same places with a rank correlation of {found.alike:.2f}"
    usual = found.usual
    if usual is None:
        teller.say(f"{says}: they do not lie in the same position")
        return None
    arrays, bright = {"cells": usual.cells}, usual.brightness
    how = "at any angle" if bright is not None and bright.turned else "in the same position"
    teller.say(f"{says}: they lie {how}, and scores are normalised by position")
    save_usual(picture, usual.cells)
    if bright is not None:
        arrays |= {"mean": bright.mean, "precision": bright.precision}
    cells, digest = write_usual(folder, name, arrays)
    size = {key: getattr(usual, key) for key in ("cell_px", "height_px", "width_px", "slack_px")}
    known: dict[str, Any] = {"alike": round(found.alike, 4), "parts": found.parts}
    if bright is not None:
        known |= {"brightness_weight": bright.weight, "turned": bright.turned}
    warnings = [
        f"map {name}: {odd.part} is not as bright as the other parts at x {odd.x_px}, y {odd.y_px} "
        f"({odd.times_usual:.1f} times what is usual for a part's most unusual place): look whether it is good; what "
        "brightness is usual was learnt without it"
        for odd in found.odd
    ]
    return Learnt(usual, Usual(cells=cells, sha256=digest, **size, **known), warnings)


def learn_usual(scorer: Scorer, sources: Sources, name: str, budget_s: float | None) -> Found | str:
    """Score the parts to train on and return what is usual at each place, if that is much the same for all.

    ``budget_s`` is the map's budget, None for one in steps. The reason if that cannot be told: too few parts, parts
    of sizes that differ by more than a little, or no time for as many as are needed. Of a few parts of another size
    than all others nothing is learnt.
    """
    survey = sources.survey
    alike, parts = _of_common_size(survey.parts, survey), _of_common_size(sources.split.train, survey)
    sizes = np.array([survey.sizes[part.id] for part in alike])
    if len(alike) < _COMMON_SHARE * len(survey.parts) or not _alike(sizes):
        return "the images differ in size"
    if len(parts) < LEAST_LEARNT:
        return f"that takes {LEAST_LEARNT} parts to train on"
    height, width = (int(length) for length in sizes.max(axis=0))
    slack_px = int(np.ptp(sizes, axis=0).max())
    until = math.inf if budget_s is None else time.monotonic() + USUAL_SHARE * budget_s
    count = _affordable(scorer, parts[0], survey, name, budget_s)
    if count < LEAST_SCORED:
        return f"no time to score {LEAST_SCORED} parts"
    cell_px = max(_CELL_PX, reduction(height, width, _MOST_CELLS))
    shape = -(-height // cell_px), -(-width // cell_px)
    chosen = [parts[i] for i in _evenly(len(parts), MOST_PARTS)]
    bright: list[Cells] = []
    for part in chosen:
        with open_map(part.files[name]) as reader:
            own = cell_means(reader, scorer.preprocess.range, survey.rois[part.id], cell_px)
        bright.append(of_shape(own, shape, "nan"))
    scores: dict[int, Cells] = {}
    for i in _evenly(len(chosen), count):
        if len(scores) >= LEAST_SCORED and time.monotonic() > until:
            break  # the window that the time was found out by lay outside the ROI
        own = _cells(scorer, chosen[i], survey.rois[chosen[i].id], name, cell_px)
        scores[i] = of_shape(own, shape, "nan")
    as_they_lie, turned = (_laid(np.stack(bright), scores, at_any_angle) for at_any_angle in (False, True))
    best = turned if turned.alike > as_they_lie.alike + _TURNED_GAINS else as_they_lie
    if best.alike < LEAST_ALIKE:
        return Found(None, best.alike, len(scores))
    cells = usual_cells(best.scores)
    peak = float(np.median(np.nanmax(best.scores / cells, axis=(1, 2))))
    found, unlike = usual_brightness(best.bright, peak)
    usual = UsualMap(cells, cell_px, height, width, replace(found, turned=best is turned), slack_px=slack_px)
    odd = []
    for i, times, (row, column) in unlike:
        at = (cell_px * (best.motions[i] @ (column, row, 1) + 0.5)).clip(0, (width - 1, height - 1))
        odd.append(Odd(chosen[i].id, int(at[0]), int(at[1]), times))
    return Found(usual, best.alike, len(scores), odd)


def _alike(sizes: NDArray[np.int64]) -> bool:
    """Whether images of these heights and widths (n, 2) differ in size by no more than a little."""
    return bool(np.ptp(sizes, axis=0).max() <= _MOST_SLACK * sizes.max())


def _of_common_size(parts: Sequence[Part], survey: Survey) -> list[Part]:
    """Return the parts whose images are about as large as most of all parts' images."""
    sizes = np.array([survey.sizes[part.id] for part in survey.parts])
    if _alike(sizes):
        return list(parts)
    common = np.quantile(sizes, 0.5, axis=0, method="lower")
    most = _MOST_SLACK * common.max()
    return [part for part in parts if np.abs(survey.sizes[part.id] - common).max() <= most]


def _laid(bright: Cells, scores: Mapping[int, Cells], turned: bool) -> _Laid:
    """Lay parts (parts, rows, columns, channels), and the scores of some of them by number, onto their average."""
    laid, motions = laid_alike(bright, turned)
    at_place = np.stack([onto_usual(own, motions[i]) for i, own in scores.items()])
    return _Laid(laid, motions, at_place, alike_of(at_place))


def _evenly(length: int, most: int) -> list[int]:
    """Return at most so many places of a list of ``length``, evenly spaced."""
    return [int(i) for i in np.linspace(0, length - 1, min(most, length)).round()]


def usual_brightness(laid: Cells, peak: float) -> tuple[UsualBrightness, list[tuple[int, float, tuple[int, int]]]]:
    """Return how bright good parts are at each place, from their cells as ``laid_alike`` returns them.

    ``peak`` is the highest score of an ordinary good part, by which the weight of brightness in a score is found.
    Of each group of parts the others say how bright it should be, as of a part that comes later. A part that lies far
    above the others is not learnt from; the second result tells which, how many times above, and at what cell.
    """
    group = np.arange(len(laid)) % _GROUPS
    distances = np.zeros(laid.shape[:3], np.float32)
    for number in range(_GROUPS):
        others = UsualBrightness.learnt(laid[group != number])
        for i in np.flatnonzero(group == number):
            distances[i] = others.distance(laid[i])
    peaks = distances.max(axis=(1, 2))
    times, far = outliers(peaks.tolist())
    unlike = []
    for i in np.flatnonzero(far):
        row, column = np.unravel_index(int(distances[i].argmax()), distances[i].shape)
        unlike.append((int(i), float(times[i]), (int(row), int(column))))
    weight = _BRIGHTNESS_SHARE * peak / max(1.0, float(np.median(peaks)))
    return replace(UsualBrightness.learnt(laid[~far]), weight=weight), unlike


def alike_of(scores: Cells) -> float:
    """Return how alike the places lie at which parts (parts, rows, columns; NaN outside the ROI) score high.

    The rank correlation over places, on average between two parts, of the scores at places that are in all parts'
    ROI; 0 where there is none.
    """
    smooth = np.stack([smoothed(part, _SMOOTH_CELLS) for part in scores])
    known = np.isfinite(smooth).all(axis=0)
    values = smooth[:, known]
    if values.shape[1] < _LEAST_PLACES or not (np.ptp(values, axis=1) > 0).all():
        return 0.0
    between = np.corrcoef(rankdata(values, axis=1))
    return float(between[np.triu_indices(len(between), 1)].mean())


def usual_cells(scores: Cells) -> Cells:
    """Return how high the scores (parts, rows, columns) go at each place over the median place; 1 outside the ROI."""
    high = np.full(scores.shape[1:], np.nan, np.float32)
    known = np.isfinite(scores).any(axis=0)
    high[known] = np.nanquantile(scores[:, known], _HIGH, axis=0)
    level = smoothed(np.log(np.maximum(high, LEAST_LIMIT)), _SMOOTH_CELLS)
    return np.asarray(np.exp(np.nan_to_num(level - np.nanmedian(level))).clip(_LEAST, _MOST), np.float32)


def _cells(scorer: Scorer, part: Part, roi: Mask | None, name: str, cell_px: int) -> Cells:
    """Return the largest score of each cell of a part."""
    reducer = BlockReducer(cell_px, "max")
    with open_map(part.files[name]) as reader:
        for rows in scorer.stream(reader, roi).rows():
            reducer.push(rows)
    return reducer.result()


def _affordable(scorer: Scorer, part: Part, survey: Survey, name: str, budget_s: float | None) -> int:
    """Return how many parts there is time to score, judged by the time that a window of one takes.

    The fewest that are needed may take a larger share of it.
    """
    height, width = survey.sizes[part.id]
    if budget_s is None:
        return max(LEAST_SCORED, _MOST_PX // (height * width))
    tall, wide = min(_TRIED_PX, height), min(_TRIED_PX, width)
    middle = (height - tall) // 2, (width - wide) // 2, tall, wide
    started = time.monotonic()
    with open_map(part.files[name]) as reader:
        for _ in scorer.window(reader, middle, survey.rois[part.id]).rows():
            pass
    one_s = (time.monotonic() - started) * (height * width) / (tall * wide)
    least = LEAST_SCORED if LEAST_SCORED * one_s <= USUAL_MOST_SHARE * budget_s else 0
    return max(least, int(USUAL_SHARE * budget_s / max(one_s, 1e-6)))
