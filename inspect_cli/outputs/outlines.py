"""Polygons around regions, for GeoJSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from inspect_cli.outputs.png_stream import MaskWriter
from inspect_cli.scoring.regions import Region

#: Regions that get an outline; the list of regions itself is longer.
MAX_OUTLINES: Final = 200
#: Outlines are simplified to within this distance.
TOLERANCE_PX: Final = 0.34

Ring = list[list[int]]


#: Pixels of a region's box that are looked at one by one; a larger one is looked at reduced.
EXACT_PX: Final = 2**20


def outlines(mask: MaskWriter, regions: Sequence[Region]) -> list[Ring]:
    """Return the outer outline of each of the first regions along its pixels' borders, of the piece with its peak.

    Closed rings of [x, y] in full-size pixels; pixel (x, y) reaches from x to x + 1 and from y to y + 1. Of a region
    in a box larger than ``EXACT_PX`` the ring runs up to some pixels outside: 4 px in one of 20 megapixels.
    """
    return [_outline(mask, region) for region in regions[:MAX_OUTLINES]]


def _outline(mask: MaskWriter, region: Region) -> Ring:
    step = math.ceil(math.sqrt(region.height_px * region.width_px / EXACT_PX))
    window = mask.window(region.y_px, region.x_px, region.height_px, region.width_px, step)
    peak = (region.peak_y_px - region.y_px) // step, (region.peak_x_px - region.x_px) // step
    _, labels = cv2.connectedComponents(window, connectivity=8)
    at_peak = labels[peak]
    if not at_peak and labels.any():  # the peak lies in the halo of a stronger region, which may be in the box too
        sizes = np.bincount(labels.ravel())[1:] * step**2
        at_peak = 1 + int(np.abs(sizes - region.area_px).argmin())
    elif not at_peak:
        labels[peak] = at_peak = 1
    own = labels == at_peak
    # Three times as large, a contour through pixel centres runs a third inside the pixels' borders.
    large = cv2.resize(own.astype(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    rings, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    ring = cv2.approxPolyDP(max(rings, key=len), 3 * TOLERANCE_PX, True)[:, 0]
    if len(ring) < 3:
        ring = cv2.boxPoints(cv2.minAreaRect(max(rings, key=len))).round().astype(int)
    corners = np.minimum((np.asarray(ring, int) + 1) // 3 * step, (region.width_px, region.height_px))
    points = [[int(x) + region.x_px, int(y) + region.y_px] for x, y in corners]
    return [*points, points[0]]
