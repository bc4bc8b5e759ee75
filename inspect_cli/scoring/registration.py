"""How a part lies against the average good part, told by pictures of few cells: moved and turned a little."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

#: A 2x3 matrix that takes a place (x, y) of the average part to that of the part in hand, in cells.
Motion = NDArray[np.float32]

AT_REST: Final[Motion] = np.eye(2, 3, dtype=np.float32)
#: A part is found as long as no corner lies farther off than this share of the longer side.
_FARTHEST: Final = 0.1
_ROUNDS: Final = 50
_PRECISION: Final = 1e-5
#: Side of the Gaussian that smooths both pictures first, in cells.
_SMOOTH_CELLS: Final = 3


def motion_of(cells: NDArray[np.float32], usual: NDArray[np.float32]) -> Motion:
    """Return how a part lies against the average one, both (rows, columns, channels), NaN where not known.

    The channel that differs most from place to place tells it, by the enhanced correlation coefficient (Evangelidis
    and Psarakis 2008), which does not depend on light. A part that is not found so lies at rest.
    """
    if not np.isfinite(usual).any():
        return AT_REST
    channel = int(np.argmax(np.nanstd(usual, axis=(0, 1))))
    template, picture = (_filled(values[..., channel]) for values in (usual, cells))
    known = np.isfinite(cells[..., channel]).astype(np.uint8)
    if not template.std() > 0 or not picture.std() > 0:
        return AT_REST
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ROUNDS, _PRECISION)
    try:
        _, found = cv2.findTransformECC(
            template, picture, AT_REST.copy(), cv2.MOTION_EUCLIDEAN, criteria, known, _SMOOTH_CELLS
        )
    except cv2.error:  # it does not converge
        return AT_REST
    motion = np.asarray(found, np.float32)
    height, width = picture.shape
    corners = np.array([(x, y, 1.0) for x in (0, width) for y in (0, height)]).T
    far = float(np.abs(motion @ corners - corners[:2]).max())
    if far > _FARTHEST * max(height, width):
        return AT_REST
    at_rest, moved = cells[..., channel], onto_usual(cells[..., channel], motion)
    return motion if _alike(moved, usual[..., channel]) > _alike(at_rest, usual[..., channel]) else AT_REST


def _alike(values: NDArray[np.float32], usual: NDArray[np.float32]) -> float:
    """Return the correlation of two pictures where both are known, -1 where that is nowhere or one is even."""
    known = np.isfinite(values) & np.isfinite(usual)
    if known.sum() < 2 or not np.ptp(values[known]) or not np.ptp(usual[known]):
        return -1.0
    return float(np.corrcoef(values[known], usual[known])[0, 1])


def onto_usual(values: NDArray[np.float32], motion: Motion) -> NDArray[np.float32]:
    """Return values (rows, columns[, channels]) of a part as the average part lies; NaN where it does not reach."""
    return _moved(values, motion, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_CONSTANT)


def onto_part(values: NDArray[np.float32], motion: Motion) -> NDArray[np.float32]:
    """Return values (rows, columns) of the average part as a part lies; the nearest ones where it does not reach."""
    return _moved(values, motion, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)


def of_shape(values: NDArray[np.float32], shape: tuple[int, ...], mode: str) -> NDArray[np.float32]:
    """Return values (rows, columns[, channels]) of a picture a little smaller or larger, cut or filled up at its end.

    ``mode`` is `nan`, or `edge` for the nearest values.
    """
    cut = values[: shape[0], : shape[1]]
    beyond = [(0, shape[0] - cut.shape[0]), (0, shape[1] - cut.shape[1]), (0, 0)][: values.ndim]
    if not np.any(beyond):
        return cut
    return np.pad(cut, beyond, constant_values=np.nan) if mode == "nan" else np.pad(cut, beyond, mode="edge")


def _moved(values: NDArray[Any], motion: Motion, flags: int, border: int) -> NDArray[np.float32]:
    if np.array_equal(motion, AT_REST):
        return np.asarray(values, np.float32)
    size = values.shape[1], values.shape[0]
    planes = values.reshape(*values.shape[:2], -1)
    moved = [
        cv2.warpAffine(
            np.ascontiguousarray(planes[..., i]), motion, size, flags=flags, borderMode=border, borderValue=np.nan
        )
        for i in range(planes.shape[2])
    ]
    return np.stack(moved, axis=2).reshape(values.shape)


def _filled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    known = np.isfinite(values)
    mean = values[known].mean() if known.any() else 0.0
    return np.where(known, values, np.float32(mean)).astype(np.float32)
