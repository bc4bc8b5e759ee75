"""Clean and corrupted patches side by side: what a network is taught to remove."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inspect_cli.pictures import draw
from inspect_cli.pictures.colour import SCALE_MAX, score_colours
from inspect_cli.pictures.draw import Picture
from inspect_cli.pictures.previews import save_png

#: Patches in a gallery.
MOST_SHOWN: Final = 8

_CELL_PX: Final = 256
_GUTTER_PX: Final = 6
#: Share of the clean pixels that may be darker, and that may be brighter, than what the picture can show.
_CUT: Final = 0.001


def save_corruptions(
    path: Path, clean: NDArray[np.floating], corrupted: NDArray[np.floating], changed: NDArray[np.floating]
) -> None:
    """Write patches as they were, as they were damaged and where they differ; a column each, at most eight.

    Black and white are the 0.1 % and 99.9 % quantiles of the clean patches shown, in both upper rows, so that
    material of low contrast can be seen. The lowest row shows the absolute difference, the largest of the
    channels, from 0 to its maximum in all patches; what was neither to be changed nor differs is grey there.

    Parameters
    ----------
    path
        PNG file to write.
    clean, corrupted
        (n, channels, height, width), unit range, n at least 1. Three channels are shown as RGB, of any
        other number the first.
    changed
        (n, 1, height, width), 0 where a pixel was not to be changed.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    clean, corrupted, changed = clean[:MOST_SHOWN], corrupted[:MOST_SHOWN], changed[:MOST_SHOWN]
    low, high = _range(_shown_channels(clean))
    difference = np.abs(corrupted - clean).max(axis=1)
    top = float(np.fmax.reduce(difference, axis=None, initial=0.0)) or 1.0
    difference = np.where((changed[:, 0] > 0) | (difference > 0), difference, np.nan)
    rows = {
        f"clean; black {low:.3g}, white {high:.3g}": [_picture(patch, low, high) for patch in clean],
        "corrupted, same range": [_picture(patch, low, high) for patch in corrupted],
        f"difference, black 0 to yellow {top:.3g}; grey: left as it was": [
            score_colours(patch / top * SCALE_MAX) for patch in difference
        ],
    }
    sheet = np.zeros((0, 0, 3), np.uint8)
    for title, pictures in rows.items():
        cells = draw.side_by_side(pictures, _CELL_PX, _CELL_PX, _GUTTER_PX)
        sheet = draw.stacked(draw.stacked(sheet, draw.caption_strip(cells.shape[1], title)), cells)
    save_png(path, sheet)


def _shown_channels(patches: NDArray[Any]) -> NDArray[Any]:
    """Return the channels that are shown of patches (..., channels, height, width)."""
    return patches if patches.shape[-3] == 3 else patches[..., :1, :, :]


def _range(shown: NDArray[np.floating]) -> tuple[float, float]:
    """Return the values to show as black and white; those of the unit range where all pixels are equal."""
    finite = shown[np.isfinite(shown)]
    low, high = np.quantile(finite, [_CUT, 1.0 - _CUT]).tolist() if finite.size else (0.0, 0.0)
    return (low, high) if high > low else (0.0, 1.0)


def _picture(patch: NDArray[np.floating], low: float, high: float) -> Picture:
    """Return (h, w, 3) uint8 from a patch (c, h, w), black at ``low`` and white at ``high``."""
    stretched = np.clip((_shown_channels(patch) - low) / (high - low), 0.0, 1.0)
    pixels = np.rint(np.nan_to_num(stretched, nan=0.5) * 255.0).astype(np.uint8).transpose(1, 2, 0)
    return pixels if pixels.shape[2] == 3 else draw.to_rgb(pixels[:, :, 0])
