"""Polygons around regions, for GeoJSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from inspect_cli.outputs.png_stream import MaskWriter
from inspect_cli.scoring.regions import Region

#: Regions that get an outline; the list of regions itself is longer.
MAX_OUTLINES: Final = 200
#: Outlines are simplified to within this distance.
TOLERANCE_PX: Final = 0.7

Ring = list[list[int]]


def outlines(mask: MaskWriter, regions: Sequence[Region]) -> list[Ring]:
    """Return the outer outline of each of the first regions: closed rings of [x, y] in full-size pixels."""
    return [_outline(mask, region) for region in regions[:MAX_OUTLINES]]


def _outline(mask: MaskWriter, region: Region) -> Ring:
    window = mask.window(region.y_px, region.x_px, region.height_px, region.width_px)
    _, labels = cv2.connectedComponents(np.ascontiguousarray(window), connectivity=8)
    own = labels == labels[region.peak_y_px - region.y_px, region.peak_x_px - region.x_px]
    rings, _ = cv2.findContours(own.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    ring = cv2.approxPolyDP(max(rings, key=len), TOLERANCE_PX, True)[:, 0]
    points = [[int(x) + region.x_px, int(y) + region.y_px] for x, y in ring]
    return [*points, points[0]]
