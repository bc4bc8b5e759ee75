"""The noising algorithms of DIR, section IV-B, one function each.

The paper's numbers are for values in [-1, 1]. Patches here have the material's range at 0 to 1, so that a
difference is half the paper's; the clamping to the range is :class:`NoisingFilterBank`'s. Sizes in pixels are
the paper's at any tile size, as a defect keeps its size in pixels whatever tile it is cut into.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask

Family = Literal["opaque", "transparent", "speckle", "distribution", "morphological"]
#: The families of DIR, section VI-B.
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)

Patch = NDArray[np.float32]

#: A unit of the paper's range [-1, 1] in the range 0 to 1.
PAPER_UNIT: Final = 0.5
LARGEST_HIT_SHARE: Final = 0.5
BLUR_KERNELS_PX: Final = range(3, 16, 2)
BLUR_SIGMA_PX: Final = (1.0, 100.0)
NOISE_STD: Final = (0.3 * PAPER_UNIT, 0.6 * PAPER_UNIT)
SHADING: Final = (-0.5 * PAPER_UNIT, 0.5 * PAPER_UNIT)
LARGEST_THICKNESS_PX: Final = 6
LARGEST_AXIS_PX: Final = 30
DISC_DIAMETERS_PX: Final = range(1, 8, 2)
MOST_ITERATIONS: Final = 2


class Noised(NamedTuple):
    """What an algorithm does to a patch (channels, height, width).

    Attributes
    ----------
    where
        (height, width), the pixels that it replaces.
    values
        What they are replaced with, in the patch's range and not clamped; broadcasts to the patch.
    """

    where: Mask
    values: NDArray[np.float32]


Filter = Callable[[Patch, np.random.Generator], Noised]


def rectangle(patch: Patch, rng: np.random.Generator) -> Noised:
    """Fill a rectangle with one colour."""
    return Noised(_rectangle(patch, rng), _colour(patch, rng))


def line(patch: Patch, rng: np.random.Generator) -> Noised:
    """Draw a line between two points of the patch, 1 to 6 px thick as OpenCV counts (1 to 7 px), in one colour."""
    canvas = np.zeros(patch.shape[1:], np.uint8)
    cv2.line(canvas, _point(patch, rng), _point(patch, rng), 1, _thickness_px(rng))
    return Noised(canvas.astype(np.bool_), _colour(patch, rng))


def arc(patch: Patch, rng: np.random.Generator) -> Noised:
    """Draw an arc of a turned ellipse about a point of the patch, as thick as a line, in one colour.

    The paper's axes of 1 to 30 px are taken as half the ellipse's width and height, as OpenCV does. An arc about
    a point near the border may miss the patch.
    """
    axes_px = rng.integers(1, LARGEST_AXIS_PX, 2, endpoint=True).tolist()
    turn_deg, start_deg, extent_deg = rng.uniform(0.0, 360.0, 3).tolist()
    canvas = np.zeros(patch.shape[1:], np.uint8)
    cv2.ellipse(
        canvas, _point(patch, rng), axes_px, turn_deg, start_deg, start_deg + extent_deg, 1, _thickness_px(rng)
    )
    return Noised(canvas.astype(np.bool_), _colour(patch, rng))


def shading(patch: Patch, rng: np.random.Generator) -> Noised:
    """Make a rectangle brighter or darker by one value in all channels."""
    return Noised(_rectangle(patch, rng), patch + rng.uniform(*SHADING))


def blur(patch: Patch, rng: np.random.Generator) -> Noised:
    """Blur a rectangle with a Gaussian whose kernel and sigma differ between the axes.

    Pixels beside the rectangle flow in; beyond its border the patch is mirrored.
    """
    where = _rectangle(patch, rng)
    kernel_px = rng.choice(BLUR_KERNELS_PX, 2).tolist()
    sigma_x_px, sigma_y_px = rng.uniform(*BLUR_SIGMA_PX, 2).tolist()
    blurred = [cv2.GaussianBlur(channel, kernel_px, sigmaX=sigma_x_px, sigmaY=sigma_y_px) for channel in patch]
    return Noised(where, np.stack(blurred))


def salt(patch: Patch, rng: np.random.Generator) -> Noised:
    """Set some pixels of a rectangle to the top of the range, all channels of a pixel alike."""
    where = _rectangle(patch, rng)
    return Noised(where & (_field(patch, rng) < _hit_share(rng)), np.ones(1, np.float32))


def pepper(patch: Patch, rng: np.random.Generator) -> Noised:
    """Set some pixels of a rectangle to the bottom of the range, all channels of a pixel alike."""
    where = _rectangle(patch, rng)
    return Noised(where & (_field(patch, rng) < _hit_share(rng)), np.zeros(1, np.float32))


def salt_and_pepper(patch: Patch, rng: np.random.Generator) -> Noised:
    """Set some pixels of a rectangle to the top or the bottom of the range, one as likely as the other."""
    where = _rectangle(patch, rng)
    field, share = _field(patch, rng), _hit_share(rng)
    return Noised(where & (field < share), (field < share / 2).astype(np.float32))


def gaussian_noise(patch: Patch, rng: np.random.Generator) -> Noised:
    """Add independent Gaussian noise to a rectangle; grey noise to a grey patch."""
    where = _rectangle(patch, rng)
    std = rng.uniform(*NOISE_STD)
    noised = patch.copy()
    noised[:, where] += std * rng.standard_normal((_colours(patch), where.sum()), dtype=np.float32)
    return Noised(where, noised)


def erosion(patch: Patch, rng: np.random.Generator) -> Noised:
    """Replace the pixels of a rectangle by the least value on a disc around them, once or twice."""
    where = _rectangle(patch, rng)
    disc, iterations = _disc(rng), _iterations(rng)
    return Noised(where, np.stack([cv2.erode(channel, disc, iterations=iterations) for channel in patch]))


def dilation(patch: Patch, rng: np.random.Generator) -> Noised:
    """Replace the pixels of a rectangle by the largest value on a disc around them, once or twice."""
    where = _rectangle(patch, rng)
    disc, iterations = _disc(rng), _iterations(rng)
    return Noised(where, np.stack([cv2.dilate(channel, disc, iterations=iterations) for channel in patch]))


#: Name of an algorithm -> its family and what it does.
FILTERS: Final[dict[str, tuple[Family, Filter]]] = {
    "rectangle": ("opaque", rectangle),
    "line": ("opaque", line),
    "arc": ("opaque", arc),
    "shading": ("transparent", shading),
    "blur": ("transparent", blur),
    "salt": ("speckle", salt),
    "pepper": ("speckle", pepper),
    "salt_and_pepper": ("speckle", salt_and_pepper),
    "gaussian_noise": ("distribution", gaussian_noise),
    "erosion": ("morphological", erosion),
    "dilation": ("morphological", dilation),
}


def _rectangle(patch: Patch, rng: np.random.Generator) -> Mask:
    """Return a rectangle: its sides uniform from 1 px to the patch's, its place uniform where it fits."""
    height, width = patch.shape[1:]
    rows, columns = rng.integers(1, [height, width], endpoint=True).tolist()
    top, left = rng.integers(0, [height - rows, width - columns], endpoint=True).tolist()
    where = np.zeros((height, width), np.bool_)
    where[top : top + rows, left : left + columns] = True
    return where


def _point(patch: Patch, rng: np.random.Generator) -> tuple[int, int]:
    """Return a pixel of the patch, x before y."""
    height, width = patch.shape[1:]
    return int(rng.integers(width)), int(rng.integers(height))


def _thickness_px(rng: np.random.Generator) -> int:
    return int(rng.integers(1, LARGEST_THICKNESS_PX, endpoint=True))


def _colours(patch: Patch) -> int:
    """Return how many values a colour needs: one for each channel, but one for a patch whose channels are equal."""
    return 1 if np.array_equal(patch[1:], patch[:-1]) else len(patch)


def _colour(patch: Patch, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a colour, uniform in the range: (channels, 1, 1), or (1, 1, 1) for a grey patch."""
    return rng.random((_colours(patch), 1, 1), dtype=np.float32)


def _field(patch: Patch, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a number for each pixel, uniform from 0 to 1."""
    return rng.random(patch.shape[1:], dtype=np.float32)


def _hit_share(rng: np.random.Generator) -> float:
    """Return the probability that a pixel is hit."""
    return rng.uniform(0.0, LARGEST_HIT_SHARE)


def _disc(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a disc of odd diameter: the pixels no farther from the middle one than those at its rim.

    ``cv2.getStructuringElement`` has an ellipse, but a different one along x and y.
    """
    radius = int(rng.choice(DISC_DIAMETERS_PX)) // 2
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc: NDArray[np.uint8] = (x * x + y * y <= radius * radius).astype(np.uint8)
    return disc


def _iterations(rng: np.random.Generator) -> int:
    return int(rng.integers(1, MOST_ITERATIONS, endpoint=True))
