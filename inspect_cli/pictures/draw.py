"""Drawing for previews: boxes, labels, strips of writing, enlargement. Canvases are RGB uint8 (h, w, 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.pictures.colour import NO_SCORE_RGB, inferno_table

Rgb = tuple[int, int, int]
Picture = NDArray[np.uint8]

INK_RGB: Final[Rgb] = (235, 235, 238)
PANEL_RGB: Final[Rgb] = (26, 27, 31)

_READABLE_PX: Final = 320  # narrower pictures are enlarged to at least this width
_TALLEST_ENLARGED_PX: Final = 1600
_REFERENCE_PX: Final = 900  # at this width a line is 1 px wide; about the width in the HTML report
_THICKEST: Final = 3
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SIZE: Final = 0.45


def some_pixels(array: NDArray[Any], fill: float) -> NDArray[Any]:
    """Return the array itself, or one pixel of ``fill`` where it has none."""
    return array if array.size else np.full((1, 1), fill, array.dtype)


def to_grey(image_u8: Picture) -> Picture:
    """Return (h, w) from a picture of shape (h, w), (h, w, 1) or (h, w, 3) RGB."""
    if image_u8.ndim == 2:
        return image_u8
    if image_u8.shape[2] == 1:
        return image_u8[:, :, 0]
    grey: Picture = cv2.cvtColor(np.ascontiguousarray(image_u8), cv2.COLOR_RGB2GRAY)
    return grey


def to_rgb(grey: Picture) -> Picture:
    """Return (h, w, 3) with three equal channels from (h, w)."""
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def enlargement(height: int, width: int) -> int:
    """Return the whole number by which a small picture is enlarged so that writing in it can be read."""
    wanted = math.ceil(_READABLE_PX / width)
    return max(1, min(wanted, _TALLEST_ENLARGED_PX // height))


def enlarged(picture: Picture) -> Picture:
    """Repeat every pixel :func:`enlargement` times in both directions; always a new array."""
    factor = enlargement(*picture.shape[:2])
    return np.ascontiguousarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))


def side_by_side(pictures: Iterable[Picture], cell_px: int, largest_px: int, gutter_px: int) -> Picture:
    """Set RGB pictures in a row, with a gutter above and on the left of each.

    Small ones are enlarged by a whole number to ``cell_px`` at most, those above ``largest_px`` reduced to it.
    """
    cells = []
    for picture in pictures:
        height, width = picture.shape[:2]
        longest = max(height, width)
        factor = max(1, cell_px // longest) if longest <= largest_px else largest_px / longest
        down, across = max(1, round(height * factor)), max(1, round(width * factor))
        method = cv2.INTER_NEAREST if factor >= 1 else cv2.INTER_AREA
        cell = np.empty((gutter_px + down, gutter_px + across, 3), np.uint8)
        cell[:] = PANEL_RGB
        cell[gutter_px:, gutter_px:] = cv2.resize(picture, (across, down), interpolation=method)
        cells.append(cell)
    return np.hstack(cells)


def line_px(width: int) -> int:
    """Return the width of a line, and the multiple of the base size of writing, for a picture this wide."""
    return min(max(1, round(width / _REFERENCE_PX)), _THICKEST)


def box(canvas: Picture, start_xy: tuple[int, int], end_xy: tuple[int, int], colour: Rgb, thickness_px: int) -> None:
    """Draw a rectangle; both corners belong to it."""
    cv2.rectangle(canvas, start_xy, end_xy, colour, thickness_px)


def write(canvas: Picture, text: str, baseline_xy: tuple[int, int], unit: int) -> None:
    """Write ASCII text with its lower left corner at ``baseline_xy``."""
    cv2.putText(canvas, text, baseline_xy, _FONT, _FONT_SIZE * unit, INK_RGB, 1, cv2.LINE_AA)


def text_width_px(text: str, unit: int) -> int:
    """Return how wide :func:`write` makes the text."""
    return int(cv2.getTextSize(text, _FONT, _FONT_SIZE * unit, 1)[0][0])


def label(canvas: Picture, text: str, start_xy: tuple[int, int], end_xy: tuple[int, int]) -> None:
    """Write text on a dark plate above the box from ``start_xy`` to ``end_xy``, or below where no room is."""
    unit = line_px(canvas.shape[1])
    width, height = text_width_px(text, unit) + 7 * unit, 16 * unit
    above, below = start_xy[1] - height, end_xy[1] + 1
    y = above if above >= 0 else max(0, min(below, canvas.shape[0] - height))
    x = max(0, min(start_xy[0], canvas.shape[1] - width))
    box(canvas, (x, y), (x + width - 1, y + height - 1), PANEL_RGB, cv2.FILLED)
    write(canvas, text, (x + 3 * unit, y + height - 4 * unit), unit)


def scale_strip(width: int) -> Picture:
    """Return the colour bar with its ticks: 0, 1 = limit, 2 or more, and the grey of no score."""
    width = max(width, _READABLE_PX)
    unit = line_px(width)
    strip = np.full((44 * unit, width, 3), PANEL_RGB, np.uint8)
    start, end = 10 * unit, min(width - 110 * unit, 480 * unit)
    strip[8 * unit : 20 * unit, start:end] = inferno_table()[np.linspace(0, 255, end - start).astype(np.intp)]
    for x, text, share in ((start, "0", 0.0), ((start + end) // 2, "1 = limit", 0.5), (end - 1, "2+", 0.5)):
        strip[8 * unit : 25 * unit, x : x + unit] = INK_RGB
        write(strip, text, (x - round(share * text_width_px(text, unit)), 38 * unit), unit)
    strip[8 * unit : 20 * unit, end + 16 * unit : end + 28 * unit] = NO_SCORE_RGB
    write(strip, "no score", (end + 34 * unit, 19 * unit), unit)
    return strip


def caption_strip(width: int, text: str) -> Picture:
    """Return a dark strip with one line of text, at least as wide as the text needs."""
    unit = line_px(width)
    strip_width = max(width, text_width_px(text, unit) + 20 * unit)
    strip = np.full((30 * unit, strip_width, 3), PANEL_RGB, np.uint8)
    write(strip, text, (10 * unit, 20 * unit), unit)
    return strip


def stacked(upper: Picture, lower: Picture) -> Picture:
    """Stack two pictures; the narrower one is filled up at its right."""
    width = max(upper.shape[1], lower.shape[1])
    whole = np.full((upper.shape[0] + lower.shape[0], width, 3), PANEL_RGB, np.uint8)
    whole[: upper.shape[0], : upper.shape[1]] = upper
    whole[upper.shape[0] :, : lower.shape[1]] = lower
    return whole


def tint(canvas: Picture, where: NDArray[np.bool_], colour: Rgb, weight: float) -> None:
    """Mix a colour into the canvas where the mask is true."""
    mixed = canvas[where] * (1.0 - weight) + np.array(colour) * weight
    canvas[where] = np.rint(mixed).astype(np.uint8)
