"""Region of interest: which pixels are material.

The rules look for what a camera sees beside the part, *connected to the image border*: overexposed
background (``saturated``), unlit background (``dark``), or a plain one of any grey (``foreground``). A bright spot
in the middle of the part is a finding, not background, and stays inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask
from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images.parts import Part, beside, expected_file
from inspect_cli.images.reader import MapReader, open_map, read_mask, usual_value
from inspect_cli.images.values import ValueRange, is_wide
from inspect_cli.recipe.schema import PART, Recipe

#: A map's range as its recipe has it.
_Range = str | tuple[float, float]
#: Share of a map's range that counts as its end; JPEG and interpolation blur the exact limit.
END_SHARE = 0.02
#: Of how many rows and columns one is looked at to find the range, and what quantile is bright.
_THINNED = 4
_BRIGHTEST = 0.999
#: Thinner saturated or dark strips than this are not background.
MIN_STRIP_PX = 9
_READ_ROWS = 512
#: Rows at the top and bottom whose median is the background's value; the blur before it is looked for, and its reach.
_BORDER_PX = 4
_BLUR_PX = 2.0
_BLUR_REACH_PX = 8


def find_roi(recipe: Recipe, part: Part, recipe_folder: Path, size_px: tuple[int, int] | None = None) -> Mask | None:
    """Return the ROI of ``part`` as a bool array (height, width), or None for the whole image.

    ``size_px`` are height and width of the maps that it is for; the map that the rule looks at may be another one.

    Raises
    ------
    InputError
        If the mask file or the rule's map is missing or has another size, or if no pixel is left.
    """
    spec = recipe.roi
    if spec.rule == "none":
        return None
    source = _source(recipe, part)
    with open_map(source) as reader:
        found = reader.header.height, reader.header.width
        if reader.header.dtype.kind not in "uif":
            raise InputError(f"{source}: pixel type {reader.header.dtype} is not supported where a ROI is looked for")
        if size_px is not None and found != size_px:
            raise InputError(
                f"{source}: is {found[1]}x{found[0]} px, the maps of {part.id} are {size_px[1]}x{size_px[0]}; the "
                "ROI is looked for in it, so they must match"
            )
        if spec.rule == "file":
            path = _mask_path(spec.file or "", part, recipe_folder)
            inside = read_mask(path, reader.header.height, reader.header.width)
        else:
            inside = ~_touching_border(_RULES[spec.rule](reader, recipe.maps[_map_of_rule(recipe)].range))
    if spec.margin_px:
        kernel = np.ones((2 * spec.margin_px + 1,) * 2, np.uint8)
        inside = cv2.erode(inside.astype(np.uint8), kernel, borderValue=1).astype(bool)
    if not inside.any():
        raise InputError(f"{source}: rule {spec.rule!r} leaves no pixel inside the ROI")
    return inside


def roi_files(recipe: Recipe, part: Part, recipe_folder: Path) -> list[Path]:
    """Return the files that decide the ROI of ``part`` and are none of its maps: a mask, the map of the rule."""
    spec = recipe.roi
    if spec.rule == "none":
        return []
    if spec.rule == "file":
        return [_mask_path(spec.file or "", part, recipe_folder)]
    source = _source(recipe, part)
    return [] if source in part.files.values() else [source]


def _map_of_rule(recipe: Recipe) -> str:
    return recipe.roi.map or next(iter(recipe.maps))


def _source(recipe: Recipe, part: Part) -> Path:
    """Return the map that the rule looks at; one that is not scored lies beside those that are, or will."""
    name = _map_of_rule(recipe)
    if name in part.files:
        return part.files[name]
    path = beside(part, recipe.maps[name].files)
    if not path.exists():
        raise IncompleteError(f"{part.id}: the map {name!r} that the ROI is looked for in is missing: no {path}")
    return path


def _mask_path(pattern: str, part: Part, recipe_folder: Path) -> Path:
    """Return the mask of a part; one of its own that is not there may still come."""
    if PART not in pattern:
        return recipe_folder / pattern
    path = part.folder / expected_file(pattern, part.id)
    if not path.exists():
        raise IncompleteError(f"{part.id}: the ROI's mask is missing: no {path}")
    return path


class Ends(NamedTuple):
    """Values of a map from which on it is saturated, and up to which, on both sides of 0, it is dark."""

    saturated: float
    dark: float


def ends_of(reader: MapReader, named: _Range) -> Ends:
    """Return the ends of a map's range: that which its recipe names by numbers, else what its values seem to use.

    8 bits are used all; of more bits those that the largest value needs, so that 4095 is the end of 12 bits in 16.
    Floats up to 1 end there, and are dark by what the brightest have. Where there are negative values nothing but 0
    is dark.
    """
    if not isinstance(named, str):
        low, high = named
    elif reader.header.dtype.itemsize == 1:
        limits = ValueRange.of_type(reader.header.dtype)
        low, high = limits.low, limits.high
    else:
        seen = np.concatenate([_thinned(rows) for _, rows in reader.bands(_READ_ROWS)])
        if not seen.size:
            return Ends(math.inf, 0.0)
        low, high = min(0.0, float(seen.min())), float(seen.max())
        if high <= 1:
            return Ends(1 - END_SHARE, END_SHARE * float(np.quantile(seen, _BRIGHTEST)) if low == 0 else 0.0)
        high = float(2 ** int(high).bit_length() - 1)
    return Ends(high - END_SHARE * (high - low), END_SHARE * (high - low) if low >= 0 else 0.0)


def _thinned(rows: NDArray[Any]) -> NDArray[np.float64]:
    some = rows[::_THINNED, ::_THINNED].astype(np.float64)
    return some[np.isfinite(some)]


def _saturated(reader: MapReader, named: _Range) -> Mask:
    level = ends_of(reader, named).saturated
    return _all_channels(reader, lambda rows: rows >= level)


def _dark(reader: MapReader, named: _Range) -> Mask:
    level = ends_of(reader, named).dark
    return _all_channels(reader, lambda rows: np.abs(rows.astype(np.float32)) <= level)


def _plain(reader: MapReader, _: _Range) -> Mask:
    """Return what looks like the image's border: a threshold (Otsu) on the distance from the border's median."""
    height, width = reader.header.height, reader.header.width
    first, last = min(_BORDER_PX, height), max(height - _BORDER_PX, 0)
    origin = usual_value(reader) if is_wide(reader.header.dtype) else 0.0
    edges = [_planes(reader, 0, first, origin), _planes(reader, last, height, origin)]
    border = np.median(np.concatenate(edges), axis=(0, 1))
    distance = np.empty((height, width), np.float32)
    for y0 in range(0, height, _READ_ROWS):
        y1 = min(y0 + _READ_ROWS, height)
        above, below = max(0, y0 - _BLUR_REACH_PX), min(height, y1 + _BLUR_REACH_PX)
        planes = _planes(reader, above, below, origin)
        smooth = cv2.GaussianBlur(planes, (0, 0), _BLUR_PX).reshape(planes.shape)[y0 - above : y1 - above]
        distance[y0:y1] = np.abs(smooth - border).max(axis=2)
    top = float(np.quantile(distance, 0.999))
    if top <= 0:
        return np.zeros(distance.shape, bool)
    distance *= np.float32(255 / top)
    levels = np.minimum(distance, 255, out=distance).astype(np.uint8)
    limit, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(levels <= limit)


def _planes(reader: MapReader, y0: int, y1: int, origin: float) -> NDArray[np.float32]:
    """Return rows less ``origin`` as (rows, width, channels); what is no number counts as a value of 0."""
    rows = ValueRange(origin, origin + 1).to_unit(reader.read_rows(y0, y1))
    return np.nan_to_num(rows if rows.ndim == 3 else rows[..., None], nan=-origin)


_RULES: dict[str, Callable[[MapReader, _Range], Mask]] = {
    "saturated": _saturated,
    "dark": _dark,
    "foreground": _plain,
}


def _all_channels(reader: MapReader, test: Callable[[NDArray[Any]], Mask]) -> Mask:
    """Return the pixels of which all channels pass the test, or are no finite numbers, as beside a measured part."""
    mask = np.empty((reader.header.height, reader.header.width), bool)
    for y0, rows in reader.bands(_READ_ROWS):
        hit = test(rows) | ~np.isfinite(rows)
        mask[y0 : y0 + len(rows)] = hit.all(axis=2) if hit.ndim == 3 else hit
    return mask


def shares_inside(roi: Mask, tile_px: int) -> NDArray[np.float32]:
    """Return the share of a square of ``tile_px`` that lies inside the ROI, by its upper left corner, 0 to 1.

    Shape (height, width) less the square's side and plus 1. Of an image that is smaller than the square, the image
    counts.
    """
    down, across = (min(side, tile_px) for side in roi.shape)
    sums = cv2.boxFilter(roi.view(np.uint8), cv2.CV_32F, (across, down), anchor=(0, 0), normalize=False)
    places = sums[: roi.shape[0] - down + 1, : roi.shape[1] - across + 1]
    return np.asarray(places / np.float32(down * across))


def largest_share(roi: Mask, tile_px: int) -> float:
    """Return the largest of :func:`shares_inside`."""
    return float(shares_inside(roi, tile_px).max())


def _touching_border(mask: Mask) -> Mask:
    """Keep what is connected to the image border and at least MIN_STRIP_PX wide."""
    side = min(MIN_STRIP_PX, *mask.shape)
    kernel = np.ones((side, side), np.uint8)
    # An opening that continues the mask beyond the image's border, so that strips along it keep their width.
    eroded = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_REPLICATE)
    opened = cv2.dilate(eroded, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    _, labels = cv2.connectedComponents(opened, connectivity=8)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    keep = np.zeros(int(labels.max()) + 1, bool)
    keep[np.unique(edge)] = True
    keep[0] = False
    return np.asarray(keep[labels])
