"""Good material scored in the same way as parts are, while a network is in training."""

from __future__ import annotations

from typing import NamedTuple

from inspect_cli.arrays import Mask
from inspect_cli.engines import Engine
from inspect_cli.images import MapReader, WindowReader
from inspect_cli.images.values import Preprocess
from inspect_cli.scoring.mapstream import MapStream
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.tiles.tiling import Tiling

#: (y, x, height, width)
Window = tuple[int, int, int, int]


class Scorer(NamedTuple):
    """How a map of a part is scored."""

    preprocess: Preprocess
    engine: Engine
    tiles: Tiling

    def stream(self, reader: MapReader, roi: Mask | None, usual: UsualMap | None = None) -> MapStream:
        """Return the stream of a map's scores."""
        return MapStream(reader, self.preprocess, self.engine, self.tiles, roi, usual=usual)

    def window(self, reader: MapReader, window: Window, roi: Mask | None, usual: UsualMap | None = None) -> MapStream:
        """Return the stream of the scores of a window of a map, given the ROI and what is usual of the whole map."""
        y, x, height, width = window
        inside = None if roi is None else roi[y : y + height, x : x + width]
        there = None if usual is None else usual.window(*window)
        return self.stream(WindowReader(reader, *window), inside, there)
