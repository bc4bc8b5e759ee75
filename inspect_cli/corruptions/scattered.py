"""Defects of many kinds, shapes and sizes, scattered over a patch of any size: what a network learns to mark.

The Noising Filter Bank has one algorithm a patch, in rectangles as large as the patch: at 512 px that is little to
learn from. Here several defects lie in a patch, small ones as often as large ones, their strength measured in
standard deviations of the patch, so that they are as visible on faint material as on strong. What ``--method auto``
tries detectors with (``corruptions/trial.py``) is not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.corruptions.base import Corrupted, Patches
from inspect_cli.corruptions.patches import Box, region_mask

#: Side of the square around a defect: in pixels at least, over the patch's shorter side at most.
_LEAST_PX: Final = 7
_MOST: Final = 0.35
#: Below this side a curve is only a dot.
_LEAST_CURVE_PX: Final = 25
#: How much of a pixel's content is replaced inside a defect.
_OPACITY: Final = (0.35, 1.0)
#: A pixel counts as changed if so much of it was replaced and its value moved by so many standard deviations.
_CHANGED: Final = 0.15
_VISIBLE: Final = 0.3
#: Holes in what counts as changed, narrower than this, belong to it.
_HOLE_PX: Final = 5
_LEAST_DEVIATION: Final = 0.001
#: Channels that differ by less are the same grey, stored as colours.
_GREY: Final = 0.02

SoftMask = NDArray[np.float32]
Shape = Callable[[int, np.random.Generator], SoftMask]
#: Gets all patches, the number of one, and a box in that; returns (channels, side, side).
Content = Callable[[Patches, int, Box, np.random.Generator], Patches]


@dataclass(frozen=True)
class ScatteredDefects:
    """Damages patches by defects that differ in shape, content, size and strength.

    ``changed`` is 1 where a defect is visible and 0 elsewhere. Values are kept between 0 and 1, or the patch's own
    extremes where they lie outside.

    Attributes
    ----------
    area_px
        Pixels of a patch for each defect, on average; a damaged patch has one at least.
    clean
        Share of patches that stay as they are.
    """

    area_px: int = 7000
    clean: float = 0.2

    def __call__(self, patches: Patches, rng: np.random.Generator) -> Corrupted:
        """Return damaged copies of ``patches`` (n, channels, height, width), and (n, 1, height, width)."""
        damaged = patches.copy()
        changed = np.zeros_like(patches[:, :1])
        for index, patch in enumerate(damaged):
            if rng.random() < self.clean:
                continue
            deviation = patch.std(axis=(1, 2), keepdims=True).clip(_LEAST_DEVIATION)
            for _ in range(max(1, int(rng.poisson(patch[0].size / self.area_px)))):
                box, mask = _place(patch.shape[1:], rng)
                content = _CONTENTS[rng.integers(len(_CONTENTS))](damaged, index, box, rng)
                _replace(patch, changed[index, 0], box, mask * np.float32(rng.uniform(*_OPACITY)), content, deviation)
        return Corrupted(damaged, changed)


def _replace(
    patch: Patches, changed: SoftMask, box: Box, mask: SoftMask, content: Patches, deviation: Patches
) -> None:
    """Blend ``content`` into a patch's ``box`` through ``mask``, and mark where that shows; both in place."""
    where = slice(box.y, box.y + box.side), slice(box.x, box.x + box.side)
    before = patch[:, *where].copy()
    low, high = min(0.0, float(patch.min())), max(1.0, float(patch.max()))
    patch[:, *where] = np.clip(before + mask * (content - before), low, high)
    moved = (np.abs(patch[:, *where] - before) / deviation).max(axis=0)
    seen = ((moved > _VISIBLE) & (mask > _CHANGED)).astype(np.uint8)
    seen = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, np.ones((_HOLE_PX, _HOLE_PX), np.uint8))
    np.maximum(changed[where], seen, out=changed[where])


def _place(size: tuple[int, ...], rng: np.random.Generator) -> tuple[Box, SoftMask]:
    """Draw a square in a patch, the logarithm of its side uniform, and the shape of the defect in it."""
    shortest = min(size)
    most = max(_LEAST_PX, _MOST * shortest)
    side = int(np.exp(rng.uniform(np.log(_LEAST_PX), np.log(most)))) | 1
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    if shape is _thread:
        side = max(side, _LEAST_CURVE_PX)
    side = min(side, (shortest - 1) | 1)
    y, x = (int(rng.integers(0, length - side + 1)) for length in size)
    return Box(y, x, side), shape(side, rng)


def _rectangle(side: int, rng: np.random.Generator) -> SoftMask:
    mask = np.zeros((side, side), np.float32)
    rows, columns = np.maximum(2, (side * rng.uniform(0.2, 1.0, 2)).astype(int)).tolist()
    mask[:rows, :columns] = 1
    return mask


def _thread(side: int, rng: np.random.Generator) -> SoftMask:
    """Return a wavy thin curve, as of a hair or a broken thread."""
    points = np.cumsum(rng.normal(0, side / 12, (6, 2)) + rng.normal(0, side / 10, 2), axis=0)
    points += rng.uniform(0.3, 0.7, 2) * side - points.mean(axis=0)
    steps = np.linspace(0, len(points) - 1, 64)
    smooth = np.stack([np.interp(steps, range(len(points)), points[:, axis]) for axis in (0, 1)], axis=1)
    canvas = np.zeros((side, side), np.uint8)
    cv2.polylines(
        canvas, [np.round(smooth * 8).astype(np.int32)], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA, 3
    )
    return np.asarray(canvas / np.float32(255), np.float32)


def _shifted(patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:
    """Return the box brighter or darker, or of another tint."""
    patch = patches[index]
    count = _values(patch, rng)
    shift = rng.choice([-1.0, 1.0], (count, 1, 1)) * rng.uniform(0.7, 3.0, (count, 1, 1))
    return np.asarray(_cut(patch, box) + shift.astype(np.float32) * patch.std(axis=(1, 2), keepdims=True))


def _misplaced(patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:  # noqa: ARG001
    """Return what lies elsewhere, turned by 90, 180 or 270 degrees."""
    return np.rot90(_elsewhere(patches, box.side, rng), int(rng.integers(1, 4)), axes=(1, 2))


def _scaled(patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:  # noqa: ARG001
    """Return what lies elsewhere, its structure coarser or finer."""
    factor = float(np.exp(rng.uniform(np.log(0.4), np.log(2.5))))
    side = int(np.clip(round(box.side / factor), 3, min(patches.shape[2:])))
    how = cv2.INTER_AREA if side > box.side else cv2.INTER_CUBIC
    planes = [cv2.resize(plane, (box.side, box.side), interpolation=how) for plane in _elsewhere(patches, side, rng)]
    return np.stack(planes)


def _sharpness(patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:
    """Return the box blurred, or with its finest structure stronger."""
    content, sigma = _cut(patches[index], box), float(rng.uniform(1.5, 5.0))
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in content])
    if rng.random() < 0.5:
        return blurred
    return np.asarray(content + np.float32(rng.uniform(1.0, 2.5)) * (content - blurred))


def _grain(patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:
    """Return the box with noise of a coarser or finer grain along each axis."""
    patch = patches[index]
    rows, columns = np.maximum(2, box.side / rng.uniform(2.0, 30.0, 2)).astype(int).tolist()
    noise = cv2.resize(
        rng.standard_normal((rows, columns), np.float32), (box.side, box.side), interpolation=cv2.INTER_CUBIC
    )
    strength = np.float32(rng.uniform(0.5, 2.0)) * patch.std(axis=(1, 2), keepdims=True)
    return np.asarray(_cut(patch, box) + strength * noise)


def _plain(patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:
    """Return one colour between the patch's darkest and brightest."""
    patch = patches[index]
    low, high = patch.min(axis=(1, 2), keepdims=True), patch.max(axis=(1, 2), keepdims=True)
    share = rng.random((_values(patch, rng), 1, 1), np.float32)
    return np.broadcast_to(low + share * (high - low), (len(patch), box.side, box.side))


_SHAPES: Final[tuple[Shape, ...]] = (region_mask, region_mask, _rectangle, _thread)
_CONTENTS: Final[tuple[Content, ...]] = (_shifted, _misplaced, _scaled, _sharpness, _grain, _plain)


def _cut(patch: Patches, box: Box) -> Patches:
    return patch[:, box.y : box.y + box.side, box.x : box.x + box.side]


def _values(patch: Patches, rng: np.random.Generator) -> int:
    """Return how many values a defect has, one for all channels or one each: grey material gets no colour."""
    alike = rng.random() < 0.5
    return 1 if alike or np.abs(patch - patch[:1]).max() < _GREY else len(patch)


def _elsewhere(patches: Patches, side: int, rng: np.random.Generator) -> Patches:
    """Return a square of any of the patches."""
    y, x = (int(rng.integers(0, length - side + 1)) for length in patches.shape[2:])
    return np.asarray(patches[int(rng.integers(len(patches)))][:, y : y + side, x : x + side])
