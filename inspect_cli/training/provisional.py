"""Limits to start with: the peaks of held-out good windows, run through the whole scoring path."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from inspect_cli.arrays import Mask
from inspect_cli.engines import TorchEngine
from inspect_cli.images import Part, open_map
from inspect_cli.material.manifest import LEAST_LIMIT, Calibration, MapLimit, TrainedMap
from inspect_cli.recipe import Budget, Recipe
from inspect_cli.scoring.outliers import outliers
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.tiles.tiling import Tiling
from inspect_cli.training.budget import LIMITS_SHARE
from inspect_cli.training.scorer import Scorer, Window

#: Windows that are scored where there is room for them, in turn over the parts: so many at least; with a budget in
#: time one for so many seconds, up to a number, as long as all of them take no more than their share of it.
WINDOWS: Final = 12
_SECONDS_A_WINDOW: Final = 5.0
_MOST_WINDOWS: Final = 200
#: Windows that are scored in any case, and how many times that share their scoring may take.
_FEWEST: Final = 2
_FAR_OVER: Final = 2.0
#: Their side: so many tiles, or one where tiles are large.
WINDOW_TILES: Final = 4
WINDOW_PX: Final = 512
#: Room above the largest peak: the windows are a small part of what a good part shows.
MARGIN: Final = 1.5


class Extent(NamedTuple):
    """How many windows of a map are scored, and in how many seconds at most.

    ``WINDOWS`` are scored in any case, unless they take far longer than that.
    """

    windows: int = WINDOWS
    most_s: float = 0.0

    @classmethod
    def of_budget(cls, budget: Budget, maps: int) -> Extent:
        """Return what a training with ``budget`` for all maps has time for."""
        each_s = budget.seconds_a_map(maps) or 0.0
        count = min(max(WINDOWS, round(each_s / _SECONDS_A_WINDOW)), _MOST_WINDOWS)
        return cls(count, LIMITS_SHARE * each_s)

    def is_used_up(self, spent_s: float, looked: int, parts: int) -> bool:
        """Whether no more windows are scored: ``looked`` are, of so many parts.

        Of a network that is slow to score fewer than ``WINDOWS`` must do.
        """
        enough = looked >= max(WINDOWS, parts) and spent_s > self.most_s
        return enough or (looked >= _FEWEST and 0 < _FAR_OVER * self.most_s < spent_s)


@dataclass(frozen=True)
class HeldOut:
    """Good parts that were not trained on, with the ROI of each, and how much of them is scored."""

    recipe: Recipe
    tiling: Tiling
    parts: Sequence[Part]
    rois: Mapping[str, Mask | None]
    seed: int
    extent: Extent = Extent()  # noqa: RUF009  (a tuple of numbers)


class TrainedNetwork(NamedTuple):
    """What scores one map."""

    map: str
    entry: TrainedMap
    engine: TorchEngine
    usual: UsualMap | None = None


def provisional_calibration(held: HeldOut, networks: Sequence[TrainedNetwork]) -> tuple[Calibration, list[str]]:
    """Return limits from windows of the held-out parts, the largest peak times ``MARGIN``, and warnings.

    A part whose peak lies far above those of the others is no good one, or one of its kind alone: it sets no limit,
    and is told.
    """
    limits, warnings, left_out, seen, parts = {}, [], set(), 0, len(held.parts)
    for network in networks:
        peaks, looked = _peaks_of_parts(held, network)
        seen = max(seen, looked)
        for part_id, times in _far_above(peaks).items():
            del peaks[part_id]
            left_out.add(part_id)
            warnings.append(
                f"map {network.map}: held-out part {part_id} scores {times:.1f} times as high as is usual for good "
                "ones: look whether it is good; it set no limit when the model was trained"
            )
        pixel, patch = (max(getattr(peak, kind) for peak in peaks.values()) for kind in ("pixel", "patch"))
        limits[network.map] = MapLimit(pixel=pixel * MARGIN, patch=patch * MARGIN)
        parts = min(parts, len(peaks))
    origin = f"the largest peak in {seen} windows of held-out good parts, times {MARGIN}"
    if left_out:
        origin += f", without {', '.join(sorted(left_out))}"
    return Calibration.of_scores(held.tiling, limits, "max", origin, parts, provisional=True), warnings


def _peaks_of_parts(held: HeldOut, network: TrainedNetwork) -> tuple[dict[str, MapLimit], int]:
    """Return the largest peaks in the windows of each part, by part, and how many windows there was time for."""
    peaks: dict[str, MapLimit] = {}
    measures: dict[str, UsualMap | None] = {}
    looked, started = 0, time.monotonic()
    for part, window in _windows(held, network.map):
        if held.extent.is_used_up(time.monotonic() - started, looked, len(held.parts)):
            break
        looked += 1
        if part.id not in measures:
            measures[part.id] = _usual_of(held, network, part)
        pixel, patch = _peaks(held, network, part, window, measures[part.id])
        known = peaks.get(part.id, MapLimit(pixel=LEAST_LIMIT, patch=LEAST_LIMIT))
        peaks[part.id] = MapLimit(pixel=max(pixel, known.pixel), patch=max(patch, known.patch))
    return peaks, looked


def _usual_of(held: HeldOut, network: TrainedNetwork, part: Part) -> UsualMap | None:
    if network.usual is None:
        return None
    with open_map(part.files[network.map]) as reader:
        return network.usual.of_part(reader, network.entry.preprocess.range, held.rois[part.id])


def _far_above(peaks: Mapping[str, MapLimit]) -> dict[str, float]:
    """Return the parts of which a peak lies far above the others', and how many times above the median.

    Empty if they are more than a tenth: then they are a kind of good part, not exceptions.
    """
    found: dict[str, float] = {}
    for kind in ("pixel", "patch"):
        values = [getattr(peak, kind) for peak in peaks.values()]
        if np.median(values) <= LEAST_LIMIT:
            continue
        times, far = outliers(values)
        found |= {part: max(float(times[i]), found.get(part, 0.0)) for i, part in enumerate(peaks) if far[i]}
    return found if len(found) <= max(1, len(peaks) // 10) else {}


def _windows(held: HeldOut, name: str) -> list[tuple[Part, Window]]:
    """Return as many windows as are wanted or some more, in turn over the parts; fewer of parts without the room."""
    rng, tiling = np.random.default_rng([held.seed, 7]), held.tiling
    side = min(WINDOW_TILES * tiling.size_px, max(tiling.size_px, WINDOW_PX))
    places = []
    for part in held.parts:
        with open_map(part.files[name]) as reader:
            header = reader.header
        whole = [(0, 0, header.height, header.width)]
        found = whole if tiling.whole else _places(header.height, header.width, side, held.rois[part.id])
        places.append([found[i] for i in rng.permutation(len(found))])
    rounds = range(-(-held.extent.windows // len(held.parts)))
    in_turn = [
        (n, part, found[n]) for part, found in zip(held.parts, places, strict=True) for n in rounds[: len(found)]
    ]
    return [(part, window) for _, part, window in sorted(in_turn, key=lambda item: item[0])]


def _places(height: int, width: int, side: int, roi: Mask | None) -> list[Window]:
    """Return windows that cover an image side by side, those with pixels inside the ROI."""
    tall, wide = min(side, height), min(side, width)
    down, across = (
        np.linspace(0, length - window, -(-length // window)).round().astype(int).tolist()
        for length, window in ((height, tall), (width, wide))
    )
    found = [(y, x, tall, wide) for y in down for x in across]
    return [(y, x, h, w) for y, x, h, w in found if roi is None or roi[y : y + h, x : x + w].any()]


def _peaks(
    held: HeldOut, network: TrainedNetwork, part: Part, window: Window, usual: UsualMap | None
) -> tuple[float, float]:
    """Return the largest score of a pixel and of a patch in a window of a part."""
    scorer = Scorer(network.entry.preprocess, network.engine, held.tiling)
    with open_map(part.files[network.map]) as reader:
        stream = scorer.window(reader, window, held.rois[part.id], usual)
        pixel = max(float(np.nanmax(np.append(rows, 0.0))) for rows in stream.rows())
        return pixel, float(stream.patches().residual_mean.max(initial=0.0))
