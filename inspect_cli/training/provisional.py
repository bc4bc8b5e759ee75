"""Limits to start with: the peaks of held-out good windows, run through the whole scoring path."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from inspect_cli.engines import TorchEngine
from inspect_cli.images import ImageHeader, MapReader, Part, open_map
from inspect_cli.material.manifest import LEAST_LIMIT, Calibration, MapLimit, TrainedMap
from inspect_cli.methods.base import Detector
from inspect_cli.recipe import Budget, Recipe
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.mapstream import MapStream
from inspect_cli.scoring.outliers import outliers
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.store.timestamps import utc_now
from inspect_cli.tiles.tiling import Tiling

#: Windows that are scored where there is room for them, in turn over the parts: so many at least; with a budget in
#: time one for so many seconds, up to a number, as long as all of them take no more than a share of it.
WINDOWS: Final = 12
_SECONDS_A_WINDOW: Final = 5.0
_MOST_WINDOWS: Final = 200
_SHARE_OF_BUDGET: Final = 0.1
#: Windows that are scored in any case, and how many times that share their scoring may take.
_FEWEST: Final = 2
_FAR_OVER: Final = 2.0
#: Their side: so many tiles, or one where tiles are large.
WINDOW_TILES: Final = 4
WINDOW_PX: Final = 512
#: Room above the largest peak: the windows are a small part of what a good part shows.
MARGIN: Final = 1.5

Mask = NDArray[np.bool_]
#: (y, x, height, width)
Window = tuple[int, int, int, int]


class WindowReader(MapReader):
    """A rectangle of an open image, read as if it were an image of its own."""

    def __init__(self, reader: MapReader, y: int, x: int, height: int, width: int) -> None:
        outer = reader.header
        self._reader, self._y, self._x = reader, y, x
        self.header = ImageHeader(outer.path, outer.format, width, height, outer.channels, outer.dtype)

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows of the window; see :class:`MapReader`."""
        rows = self._reader.read_rows(self._y + y0, self._y + y1)
        return rows[:, self._x : self._x + self.header.width]


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
        return cls(count, _SHARE_OF_BUDGET * each_s)

    def is_used_up(self, spent_s: float, looked: int, parts: int) -> bool:
        """Whether no more windows are scored: ``looked`` are, of so many parts.

        Of a network that is slow to score fewer than ``WINDOWS`` must do.
        """
        enough = looked >= max(WINDOWS, parts) and spent_s > self.most_s
        return enough or (looked >= _FEWEST and 0 < _FAR_OVER * self.most_s < spent_s)


def provisional_calibration(
    recipe: Recipe,
    tiling: Tiling,
    parts: Sequence[Part],
    rois: Mapping[str, Mask | None],
    trained: Mapping[str, TrainedMap],
    detectors: Mapping[str, Detector],
    device: torch.device,
    seed: int,
    extent: Extent | None = None,
    usual: Mapping[str, UsualMap] = MappingProxyType({}),
) -> tuple[Calibration, list[str]]:
    """Return limits from windows of the validation parts, the largest peak times ``MARGIN``, and warnings.

    A part whose peak lies far above those of the others is no good one, or one of its kind alone: it sets no limit,
    and is told.
    """
    limits, warnings, left_out, seen = {}, [], set(), 0
    extent = extent or Extent()
    for name, detector in detectors.items():
        engine = TorchEngine(detector, device)
        peaks: dict[str, MapLimit] = {}
        measures: dict[str, UsualMap] = {}
        looked, started = 0, time.monotonic()
        for part, window in _windows(tiling, parts, rois, name, seed, extent.windows):
            if extent.is_used_up(time.monotonic() - started, looked, len(parts)):
                break
            looked += 1
            if name in usual and part.id not in measures:
                with open_map(part.files[name]) as reader:
                    values = trained[name].preprocess.range
                    measures[part.id] = usual[name].of_part(reader, values, rois[part.id])
            measure = measures.get(part.id)
            pixel, patch = _peaks(recipe, tiling, part, name, window, rois[part.id], trained[name], engine, measure)
            known = peaks.get(part.id, MapLimit(pixel=LEAST_LIMIT, patch=LEAST_LIMIT))
            peaks[part.id] = MapLimit(pixel=max(pixel, known.pixel), patch=max(patch, known.patch))
        seen = max(seen, looked)
        for part_id, times in _far_above(peaks).items():
            del peaks[part_id]
            left_out.add(part_id)
            warnings.append(
                f"map {name}: held-out part {part_id} scores {times:.1f} times as high as is usual for good ones: "
                "look whether it is good; it set no limit when the model was trained"
            )
        pixel, patch = (max(getattr(peak, kind) for peak in peaks.values()) for kind in ("pixel", "patch"))
        limits[name] = MapLimit(pixel=pixel * MARGIN, patch=patch * MARGIN)
    calibration = Calibration(
        limits=limits,
        rule="max",
        provisional=True,
        origin=f"the largest peak in {seen} windows of held-out good parts, times {MARGIN}"
        + (f", without {', '.join(sorted(left_out))}" if left_out else ""),
        parts=len(parts) - len(left_out),
        smooth_sigma_px=recipe.scoring.smooth_sigma_px,
        blend=tiling.joining,
        stride_px=tiling.stride_px,
        false_alarm_rate=None,
        created_utc=utc_now(),
    )
    return calibration, warnings


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


def _windows(
    tiling: Tiling, parts: Sequence[Part], rois: Mapping[str, Mask | None], name: str, seed: int, count: int
) -> list[tuple[Part, Window]]:
    """Return ``count`` windows or some more, in turn over the parts; fewer of parts that have no room for more."""
    rng = np.random.default_rng([seed, 7])
    side = min(WINDOW_TILES * tiling.size_px, max(tiling.size_px, WINDOW_PX))
    places = []
    for part in parts:
        with open_map(part.files[name]) as reader:
            header = reader.header
        whole = [(0, 0, header.height, header.width)]
        found = whole if tiling.whole else _places(header.height, header.width, side, rois[part.id])
        places.append([found[i] for i in rng.permutation(len(found))])
    rounds = range(-(-count // len(parts)))
    every = [(n, part, found[n]) for part, found in zip(parts, places, strict=True) for n in rounds if n < len(found)]
    return [(part, window) for _, part, window in sorted(every, key=lambda item: item[0])]


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
    recipe: Recipe,
    tiling: Tiling,
    part: Part,
    name: str,
    window: Window,
    roi: Mask | None,
    trained: TrainedMap,
    engine: TorchEngine,
    usual: UsualMap | None,
) -> tuple[float, float]:
    y, x, height, width = window
    with open_map(part.files[name]) as reader:
        stream = MapStream(
            reader=WindowReader(reader, y, x, height, width),
            preprocess=trained.preprocess,
            engine=engine,
            tiles=tiling,
            scoring=recipe.scoring,
            roi=None if roi is None else roi[y : y + height, x : x + width],
            clock=Clock(),
            usual=None if usual is None else usual.window(*window),
        )
        pixel = max(float(np.nanmax(np.append(rows, 0.0))) for rows in stream.rows())
        return pixel, float(stream.patches().residual_mean.max(initial=0.0))
