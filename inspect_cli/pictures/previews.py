"""Previews for people: heatmap, overlay, tile grid, reconstructions; and the one PNG writer.

Arrays are row-major, (h, w) or (h, w, 3) in RGB order; cv2's BGR order stays inside :func:`encode_png`.
Pictures narrower than 320 px are shown at a whole multiple of their size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspect_cli.errors import InspectError
from inspect_cli.pictures import draw
from inspect_cli.pictures.colour import LIMIT, NO_SCORE_RGB, SCALE_MAX, bands, score_colours
from inspect_cli.pictures.draw import Picture, Rgb
from inspect_cli.store.atomic import write_bytes

CONTOUR_RGB: Final[Rgb] = (0, 229, 255)  # cyan: neither in inferno nor in a grey image
BOX_RGB: Final[Rgb] = (255, 255, 255)
TILE_RGB: Final[Rgb] = (255, 170, 0)
UNCOVERED_RGB: Final[Rgb] = (220, 30, 40)

_MOST_LABELS: Final = 60  # more numbers than this would hide the picture
_CELL_PX: Final = 256
_LARGEST_CELL_PX: Final = 512
_GUTTER_PX: Final = 6


def encode_png(array: NDArray[Any]) -> bytes:
    """Encode a picture losslessly as PNG.

    Parameters
    ----------
    array
        (h, w) or (h, w, 3) RGB of uint8 or uint16, or a boolean mask, which becomes 0 and 255.
        A picture without pixels becomes one grey pixel.

    Raises
    ------
    InspectError
        If the array has another shape or type.
    """
    pixels = np.asarray(array)
    if pixels.size == 0:
        pixels = np.full((1, 1, 3), NO_SCORE_RGB, np.uint8)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim < 2 or pixels.shape[2:] not in ((), (1,), (3,)):
        raise InspectError(f"no PNG for an array of shape {pixels.shape} and type {pixels.dtype}")
    if pixels.shape[2:] == (3,):
        pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    encoded: bytes = cv2.imencode(".png", pixels)[1].tobytes()
    return encoded


def save_png(path: Path, array: NDArray[Any]) -> None:
    """Write a picture as PNG, whole or not at all; see :func:`encode_png` for what it may be.

    Raises
    ------
    InspectError
        If the array is no picture.
    OutputError
        If the file cannot be written.
    """
    write_bytes(path, encode_png(array))


def save_heatmap(path: Path, score: NDArray[np.floating], caution: str | None = None) -> None:
    """Write a score map in colour with its scale below: 0, 1 = limit, 2.

    Parameters
    ----------
    path
        PNG file to write.
    score
        (h, w) in units of the limit; NaN outside the region of interest.
    caution
        Why the colours are not to be trusted, written below them; None if they are.
    """
    shown = _cautioned(draw.enlarged(score_colours(draw.some_pixels(score, np.nan))), caution)
    save_png(path, draw.stacked(shown, draw.scale_strip(shown.shape[1])))


def _cautioned(picture: Picture, caution: str | None) -> Picture:
    """Return a picture with a line of text below it, if there is one."""
    if caution is None:
        return picture
    return draw.stacked(picture, draw.caption_strip(picture.shape[1], caution))


def save_usual(path: Path, cells: NDArray[np.floating]) -> None:
    """Write how high good parts score at each place (rows, columns) over most places: 1 black, 3 the brightest."""
    save_png(path, draw.enlarged(score_colours(draw.some_pixels(cells - 1, np.nan))))


def save_overlay(
    path: Path,
    image_u8: Picture,
    score: NDArray[np.floating],
    regions: Sequence[Mapping[str, Any]],
    scale: float,
    caution: str | None = None,
) -> None:
    """Write the image in grey with high scores in colour, the outline of the limit and numbered regions.

    Parameters
    ----------
    path
        PNG file to write.
    image_u8
        Reduced image, (h, w) or (h, w, 3) RGB.
    score
        (h, w) in units of the limit, as reduced as the image; NaN outside the region of interest.
    regions
        Boxes in full-size pixels: ``region``, ``x_px``, ``y_px``, ``width_px``, ``height_px``, and
        ``score_max``, which decides who keeps a number where there are too many.
    scale
        Full-size pixels per pixel of ``image_u8``.
    caution
        As in :func:`save_heatmap`.

    Raises
    ------
    InspectError
        If the image and the score map differ in size.
    """
    score = draw.some_pixels(score, np.nan)
    grey = draw.to_grey(draw.some_pixels(image_u8, 0))
    if grey.shape != score.shape:
        raise InspectError(f"overlay: image {grey.shape} and score map {score.shape} must have one size")
    canvas = draw.enlarged(_blended(grey, score))
    above = draw.enlarged((score > LIMIT).astype(np.uint8))
    outlines = cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(canvas, outlines, -1, CONTOUR_RGB, draw.line_px(canvas.shape[1]))
    _draw_regions(canvas, regions, draw.enlargement(*grey.shape) / scale)
    save_png(path, _cautioned(canvas, caution))


def _blended(grey: Picture, score: NDArray[np.floating]) -> Picture:
    """Mix in the colours from half the limit on, most from the limit on; a pixel without score is dimmed."""
    blended = np.empty((*grey.shape, 3), np.uint8)
    for rows in bands(len(grey)):
        nearness = np.clip(2.0 * np.nan_to_num(score[rows], nan=LIMIT) - LIMIT, 0.0, LIMIT)
        weight = 0.65 * nearness[:, :, np.newaxis]
        blended[rows] = np.rint(grey[rows, :, np.newaxis] * (1.0 - weight) + score_colours(score[rows]) * weight)
    return blended


def _draw_regions(canvas: Picture, regions: Sequence[Mapping[str, Any]], factor: float) -> None:
    unit = draw.line_px(canvas.shape[1])
    margin = 3 * unit
    weakest_first = sorted(regions, key=lambda region: float(region.get("score_max") or 0.0))
    for still_to_come, region in zip(reversed(range(len(regions))), weakest_first, strict=True):
        x, y = region["x_px"] * factor, region["y_px"] * factor
        right, bottom = x + region["width_px"] * factor, y + region["height_px"] * factor
        start = (math.floor(x) - margin, math.floor(y) - margin)
        end = (math.ceil(right) - 1 + margin, math.ceil(bottom) - 1 + margin)
        draw.box(canvas, start, end, BOX_RGB, unit)
        if still_to_come < _MOST_LABELS:
            draw.label(canvas, str(region["region"]), start, end)


def save_tile_grid(path: Path, image_u8: Picture, positions_yx: ArrayLike, tile_px: int, scale: float) -> None:
    """Write where the tiles of one map lie; what no tile covers is red.

    Parameters
    ----------
    path
        PNG file to write.
    image_u8
        Reduced image, (h, w) or (h, w, 3) RGB.
    positions_yx
        (n, 2) upper left corners in full-size pixels, y before x.
    tile_px
        Side of a tile in full-size pixels.
    scale
        Full-size pixels per pixel of ``image_u8``.
    """
    grey = draw.to_grey(draw.some_pixels(image_u8, 0))
    factor = draw.enlargement(*grey.shape) / scale
    canvas = draw.enlarged(draw.to_rgb(grey))
    corners = np.asarray(positions_yx, dtype=np.float64).reshape(-1, 2)
    low = np.floor(corners * factor).astype(np.int64)
    high = np.maximum(low + 1, np.ceil((corners + tile_px) * factor).astype(np.int64))
    covered, edges = _tile_masks(canvas.shape[0], canvas.shape[1], low, high)
    draw.tint(canvas, ~covered, UNCOVERED_RGB, 0.55)
    draw.tint(canvas, edges, CONTOUR_RGB, 0.45)
    if len(low):
        one = int(np.abs(corners - np.median(corners, axis=0)).sum(axis=1).argmin())
        (top, left), (bottom, right) = low[one].tolist(), (high[one] - 1).tolist()
        draw.box(canvas, (left, top), (right, bottom), TILE_RGB, 2 * draw.line_px(canvas.shape[1]))
    caption = f"{len(low):,} tiles of {tile_px} px; orange: one of them; red: in no tile"
    save_png(path, draw.stacked(canvas, draw.caption_strip(canvas.shape[1], caption)))


def _tile_masks(
    height: int, width: int, low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which canvas pixels lie in a tile and which on the edge of one."""
    covered = np.zeros((height, width), np.bool_)
    edges = np.zeros((height, width), np.bool_)
    for (top, left), (bottom, right) in zip(low.tolist(), high.tolist(), strict=True):
        covered[top:bottom, left:right] = True
        edges[top:bottom, left : left + 1] = True
        edges[top : top + 1, left:right] = True
        edges[top:bottom, right - 1 : right] = True
        edges[bottom - 1 : bottom, left:right] = True
    return covered, edges


def save_reconstructions(
    path: Path,
    originals: NDArray[np.floating],
    reconstructions: NDArray[np.floating],
    residuals: NDArray[np.floating],
) -> None:
    """Write a sheet with one row a tile: original, reconstruction, residual.

    All residuals share one scale, from 0 to their common 99.9 % quantile, which the title states.

    Parameters
    ----------
    path
        PNG file to write.
    originals, reconstructions
        (n, c, h, w) in 0 to 1; three channels are shown as RGB, any other number as their mean in grey.
    residuals
        (n, h, w), not negative, in raw residual units; NaN is grey.
    """
    top = _common_top(residuals)
    rows = [
        draw.side_by_side(
            [_tile_picture(original), _tile_picture(rebuilt), score_colours(residual / top * SCALE_MAX)],
            _CELL_PX,
            _LARGEST_CELL_PX,
            _GUTTER_PX,
        )
        for original, rebuilt, residual in zip(originals, reconstructions, residuals, strict=True)
        if residual.size
    ]
    title = f"original | reconstruction | residual, 0 to {top:.3g} in every row" if rows else "no tiles"
    body = np.vstack(rows) if rows else draw.caption_strip(3 * _CELL_PX, "")
    save_png(path, draw.stacked(draw.caption_strip(body.shape[1], title), body))


def _common_top(residuals: NDArray[np.floating]) -> float:
    finite = residuals[np.isfinite(residuals)]
    top = float(np.quantile(finite, 0.999)) if finite.size else 0.0
    return top if top > 0.0 else 1.0


def _tile_picture(tile: NDArray[np.floating]) -> Picture:
    """Return (h, w, 3) uint8 from a tile of shape (c, h, w) in 0 to 1."""
    shown = tile if tile.shape[0] == 3 else np.repeat(tile.mean(axis=0, keepdims=True), 3, axis=0)
    bounded = np.clip(np.nan_to_num(shown, nan=0.5), 0.0, 1.0)
    return np.ascontiguousarray(np.rint(bounded * 255.0).astype(np.uint8).transpose(1, 2, 0))
