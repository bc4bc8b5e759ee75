"""The one colour scale: score 0 to 2, inferno, with the limit at 1.0 in every picture of every run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

#: Score of the limit, in units of itself: a map is divided by its limit before anybody sees it.
LIMIT: Final = 1.0

#: Score at the upper end of the scale; anything above takes the same colour.
SCALE_MAX: Final = 2.0

#: Colour of a pixel without a score (outside the region of interest); inferno contains no grey like it.
NO_SCORE_RGB: Final = (150, 150, 150)

_LAST: Final = 255
_BAND_ROWS: Final = 64


@cache
def inferno_table() -> NDArray[np.uint8]:
    """Return the inferno colours from dark to bright: shape (256, 3), RGB, uint8, read-only."""
    ramp = np.arange(_LAST + 1, dtype=np.uint8)[:, np.newaxis]
    table = np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1], dtype=np.uint8)
    table.flags.writeable = False
    return table


def score_colours(score: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour a score map on the fixed scale, never on its own minimum and maximum.

    Parameters
    ----------
    score
        Map of shape (h, w) in units of the limit. Below 0 counts as 0 and above 2 as 2.
        NaN means that there is no score there.

    Returns
    -------
    colours
        Shape (h, w, 3), RGB; NaN pixels are neutral grey.
    """
    colours = np.empty((*score.shape, 3), np.uint8)
    for rows in bands(len(score)):
        missing = np.isnan(score[rows])
        bounded = np.clip(np.where(missing, 0.0, score[rows]), 0.0, SCALE_MAX)
        # In double precision, so that a score's colour does not hang on the type that it is stored in.
        index = np.rint(bounded.astype(np.float64) * (_LAST / SCALE_MAX)).astype(np.uint8)
        colours[rows] = inferno_table()[index]
        colours[rows][missing] = NO_SCORE_RGB
    return colours


def bands(height: int) -> Iterator[slice]:
    """Yield the rows of a picture in bands, so that what is made on the way to it stays small."""
    for top in range(0, height, _BAND_ROWS):
        yield slice(top, min(top + _BAND_ROWS, height))
