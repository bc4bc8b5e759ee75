"""The two synthetic data sets of the industrial paper (IND, section 3.1, Fig. 2): chess and noise.

The paper names the recipe but no sizes; those below are this project's choice.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from inspect_cli.arrays import Mask
from inspect_cli.sample.part import FloatMap, PartData, PartKey, bounding_box

Gray = npt.NDArray[np.uint8]

SQUARE_PX: Final = 16
ELASTIC_SIGMA_PX: Final = 5.0  # Gaussian that the random displacements are convolved with
ELASTIC_ALPHA_PX: Final = 4.5  # standard deviation of the displacement where it is strongest
NOISE_MEAN: Final = 0.5
NOISE_STD: Final = 0.12
LINE_LEVEL: Final = 0.95
LINE_LEVEL_STD: Final = 0.03
LINE_WIDTH_PX: Final = 3
LINE_WANDER_PX: Final = 1.5  # standard deviation of the noise in y = a x + b + noise


def chess_part(key: PartKey, kind: str | None) -> PartData:
    """Draw a chess board of 16 px squares (0 and 255), elastically deformed if ``kind`` is given.

    The ground truth is the set of pixels whose grey value the deformation changed; the paper does not
    define it further. The board begins at a random offset, so that the images of a batch differ.
    """
    board = chess_board(key)
    if kind is None:
        return PartData({"image": board}, np.zeros(board.shape, np.bool_))
    rng = key.rng("deformation")
    deformed, boxes = board.copy(), []
    for window in _regions(rng, key.shape_yx, count=int(rng.integers(1, 3))):
        deformed[window] = _deform(rng, board, window)
        changed: Mask = deformed[window] != board[window]
        boxes.append(bounding_box(kind, changed, window[0].start, window[1].start))
    return PartData({"image": deformed}, deformed != board, boxes)


def noise_part(key: PartKey, kind: str | None) -> PartData:
    """Draw intensities from a Gaussian, with a noisy linear function on top if ``kind`` is given.

    The line is y = a x + b + noise, 3 px wide and bright; the ground truth is its pixels.
    """
    rng = key.rng("noise")
    image = _to_gray(rng.normal(NOISE_MEAN, NOISE_STD, key.shape_yx))
    if kind is None:
        return PartData({"image": image}, np.zeros(image.shape, np.bool_))
    line_rng = key.rng("line")
    mask = _line_mask(line_rng, key.shape_yx)
    image[mask] = _to_gray(line_rng.normal(LINE_LEVEL, LINE_LEVEL_STD, int(mask.sum())))
    return PartData({"image": image}, mask, [bounding_box(kind, mask)])


def chess_board(key: PartKey) -> Gray:
    """Return the undeformed board of a part: values 0 and 255, period 32 px along both axes."""
    offset_y, offset_x = key.rng("offset").integers(0, 2 * SQUARE_PX, 2)
    rows, columns = np.ogrid[: key.shape_yx[0], : key.shape_yx[1]]
    odd = ((rows + offset_y) // SQUARE_PX + (columns + offset_x) // SQUARE_PX) % 2
    board: Gray = (odd * 255).astype(np.uint8)
    return board


def elastic_displacement(rng: np.random.Generator, shape_yx: tuple[int, int]) -> FloatMap:
    """Return a random displacement field (2, rows, columns) as (dy, dx) in px.

    Uniform random values convolved with a Gaussian and scaled by alpha (Simard et al. 2003, as cited
    by IND section 3.1), here so that their standard deviation is :data:`ELASTIC_ALPHA_PX` before they
    are faded out towards the border of the region.
    """
    field: FloatMap = rng.uniform(-1, 1, (2, *shape_yx)).astype(np.float32)
    for axis in range(2):
        smooth = cv2.GaussianBlur(field[axis], (0, 0), ELASTIC_SIGMA_PX)
        field[axis] = smooth * (ELASTIC_ALPHA_PX / smooth.std())
    rows, columns = (np.hanning(size + 2)[1:-1].astype(np.float32) for size in shape_yx)
    field *= np.sqrt(rows[:, None] * columns)
    return field


def _deform(rng: np.random.Generator, board: Gray, window: tuple[slice, slice]) -> Gray:
    """Look the board up at the nearest pixel to each displaced position inside ``window``.

    The result stays black and white, and a displacement below half a pixel changes nothing: every pixel
    of the ground truth is plainly wrong.
    """
    rows, columns = window
    dy, dx = elastic_displacement(rng, (rows.stop - rows.start, columns.stop - columns.start))
    y, x = np.mgrid[rows, columns]
    nearest_y = np.clip(np.rint(y + dy).astype(np.intp), 0, board.shape[0] - 1)
    nearest_x = np.clip(np.rint(x + dx).astype(np.intp), 0, board.shape[1] - 1)
    deformed: Gray = board[nearest_y, nearest_x]
    return deformed


def _regions(rng: np.random.Generator, shape_yx: tuple[int, int], count: int) -> list[tuple[slice, slice]]:
    """Return ``count`` windows of a fifth to a third of the image's shorter side, without overlap.

    They lie in bands of the image side by side, one region a band, and span two squares at least.
    """
    rows, columns = shape_yx
    band_px = columns // count
    windows = []
    for band in range(count):
        wanted_px = np.maximum(rng.uniform(0.2, 0.36, 2) * min(shape_yx), 2 * SQUARE_PX)
        height_px, width_px = (int(side) for side in np.minimum(wanted_px, min(rows, band_px)))
        top = int(rng.integers(0, rows - height_px + 1))
        left = band * band_px + int(rng.integers(0, band_px - width_px + 1))
        windows.append((slice(top, top + height_px), slice(left, left + width_px)))
    return windows


def _line_mask(rng: np.random.Generator, shape_yx: tuple[int, int]) -> Mask:
    """Plot the noisy line across the whole width; it passes through the middle half of the image."""
    rows, columns = shape_yx
    slope = rng.uniform(-0.9, 0.9)
    x = np.arange(columns)
    middle = (rng.uniform(0.25, 0.75) * columns, rng.uniform(0.25, 0.75) * rows)
    y = middle[1] + slope * (x - middle[0]) + rng.normal(0, LINE_WANDER_PX, columns)
    points = np.stack((x, np.rint(y)), axis=1).astype(np.int32)
    canvas = np.zeros(shape_yx, np.uint8)
    cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, 1, LINE_WIDTH_PX)
    return canvas.astype(np.bool_)


def _to_gray(values: npt.NDArray[np.float64]) -> Gray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
