"""How a part lies against the average good part, told by pictures of few cells: moved a little, and turned."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.scoring.smooth import smoothed

#: A 2x3 matrix that takes a place (x, y) of the average part to that of the part in hand, in cells.
Motion = NDArray[np.float32]

AT_REST: Final[Motion] = np.eye(2, 3, dtype=np.float32)
#: A part is found as long as no corner lies farther off than this share of the longer side; where parts lie at any
#: angle, once it is turned back.
_FARTHEST: Final = 0.1
_ROUNDS: Final = 50
_PRECISION: Final = 1e-5
#: Side of the Gaussian that smooths both pictures first, in cells.
_SMOOTH_CELLS: Final = 3
#: Cells along the longer side, and step, with which any angle is tried.
_COARSE_CELLS: Final = 48
_STEP_DEGREES: Final = 5.0
#: Standard deviation of the Gaussian that makes surroundings, as a share of the longer side: one over this.
_SURROUNDINGS: Final = 16
_LEAST_SPREAD: Final = 0.25
#: Diameter of the circle in which all angles are compared, as a share of the shorter side.
_CIRCLE: Final = 0.8
#: Share of a coarse cell that must be known.
_INSIDE: Final = 0.9


def motion_of(cells: NDArray[np.float32], usual: NDArray[np.float32], turned: bool = False) -> Motion:
    """Return how a part lies against the average one, both (rows, columns, channels), NaN where not known.

    The channel that differs most from place to place tells it, by the enhanced correlation coefficient (Evangelidis
    and Psarakis 2008), which does not depend on light. ``turned`` parts may lie at any angle, others are turned by
    little. A part that is not found lies at rest, or as its turn alone says.
    """
    if not np.isfinite(usual).any():
        return AT_REST
    channel = int(np.argmax(np.nanstd(usual, axis=(0, 1))))
    template, picture = usual[..., channel], cells[..., channel]
    if not np.nanstd(template) > 0 or not np.isfinite(picture).any() or not np.nanstd(picture) > 0:
        return AT_REST
    if not turned:
        motion = _little(picture, template, np.isfinite(picture))
        return motion if _alike(onto_usual(picture, motion), template) > _alike(picture, template) else AT_REST
    template, picture = _contrast(template), _contrast(picture)
    inside = _in_circle(template.shape)
    start = _turn(picture, np.where(inside, template, np.float32(np.nan)))
    straight = onto_usual(picture, start)
    return _after(start, _little(straight, template, inside & np.isfinite(straight)))


def _little(picture: NDArray[np.float32], usual: NDArray[np.float32], known: NDArray[np.bool_]) -> Motion:
    """Return how a picture (rows, columns) lies against the usual one, moved and turned by little, or at rest.

    Of the picture only what is ``known`` counts.
    """
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ROUNDS, _PRECISION)
    try:
        _, found = cv2.findTransformECC(
            _filled(usual),
            _filled(picture),
            AT_REST.copy(),
            cv2.MOTION_EUCLIDEAN,
            criteria,
            known.astype(np.uint8),
            _SMOOTH_CELLS,
        )
    except cv2.error:  # it does not converge
        return AT_REST
    motion = np.asarray(found, np.float32)
    corners = np.array([(x, y, 1.0) for x in (0, picture.shape[1]) for y in (0, picture.shape[0])]).T
    far = float(np.abs(motion @ corners - corners[:2]).max())
    return motion if far <= _FARTHEST * max(picture.shape) else AT_REST


def _after(second: Motion, first: Motion) -> Motion:
    """Return two motions, one after the other, as one."""
    return np.asarray(second @ np.vstack([first, (0, 0, 1)]), np.float32)


def _turn(picture: NDArray[np.float32], usual: NDArray[np.float32]) -> Motion:
    """Return by which turn about its middle, and small move, the usual picture is most like that of a part.

    Both (rows, columns), NaN where not known. All angles are tried, on few cells.
    """
    scale = max(1.0, max(usual.shape) / _COARSE_CELLS)
    width, height = (max(1, round(length / scale)) for length in usual.shape[::-1])
    known, template, seen = (
        cv2.resize(np.asarray(values, np.float32), (width, height), interpolation=cv2.INTER_AREA)
        for values in (np.isfinite(usual), _filled(usual), _filled(picture))
    )
    around = round(_FARTHEST * max(width, height))
    room = cv2.copyMakeBorder(seen, around, around, around, around, cv2.BORDER_REPLICATE)
    best, found = -1.0, (0.0, around, around)
    for degrees in np.arange(0.0, 360.0, _STEP_DEGREES):
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        shown, inside = (cv2.warpAffine(values, turn, (width, height)) for values in (template, known))
        fits = cv2.matchTemplate(room, shown, cv2.TM_CCOEFF_NORMED, mask=(inside > _INSIDE).astype(np.float32))
        _, fit, _, (x, y) = cv2.minMaxLoc(np.where(np.isfinite(fits), fits, -1.0))
        if fit > best:
            best, found = fit, (degrees, x, y)
    degrees, x, y = found
    motion = cv2.getRotationMatrix2D(((usual.shape[1] - 1) / 2, (usual.shape[0] - 1) / 2), degrees, 1.0)
    motion[:, 2] += scale * (x - around), scale * (y - around)
    return np.asarray(motion, np.float32)


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
    planes = np.moveaxis(values.reshape(*values.shape[:2], -1), 2, 0)
    how: dict[str, Any] = {"flags": flags, "borderMode": border, "borderValue": np.nan}
    moved = [cv2.warpAffine(np.ascontiguousarray(plane), motion, size, **how) for plane in planes]
    return np.stack(moved, axis=2).reshape(values.shape)


def _in_circle(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return what of a picture (rows, columns) lies in the circle in which all angles are compared.

    It leaves out the outline of most parts, which says little of how they are turned.
    """
    rows, columns = (np.arange(length) - (length - 1) / 2 for length in shape)
    return np.asarray(np.hypot(rows[:, None], columns) <= _CIRCLE * min(shape) / 2)


def _contrast(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a picture (rows, columns) less its surroundings, over how much they differ; NaN where not known."""
    sigma = max(values.shape) / _SURROUNDINGS
    away = values - smoothed(values, sigma)
    spread = np.sqrt(smoothed(away**2, sigma))
    return np.asarray(away / (spread + _LEAST_SPREAD * np.nanstd(away) + 1e-9), np.float32)


def _filled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    known = np.isfinite(values)
    mean = values[known].mean() if known.any() else 0.0
    return np.where(known, values, np.float32(mean)).astype(np.float32)
