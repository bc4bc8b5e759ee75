"""Defects to try detectors on: of kinds that no method is trained with, so that the trial proves something.

The Noising Filter Bank has hard rectangles, straight lines and arcs of one colour, noise, blur and morphology; the
deformed patches of SSAE have elastic displacement. Here edges are soft, shapes irregular, and the strength is
measured in standard deviations of the patch itself: a defect is as visible on faint material as on strong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.corruptions.base import Corrupted, Patches
from inspect_cli.corruptions.patches import region_mask

#: Side of a region over the patch's shorter side.
_SIZE: Final = (0.12, 0.4)
#: Where less than this is left of the original, a pixel counts as defective.
CHANGED: Final = 0.5
_LEAST_DEVIATION: Final = 1e-4

Content = Callable[[Patches, np.random.Generator], Patches]


def stain(patch: Patches, rng: np.random.Generator) -> Patches:
    """Return the patch brighter or darker by 1 to 2.5 standard deviations."""
    shift = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 2.5)
    return patch + np.float32(shift) * _deviation(patch)


def misplaced(patch: Patches, rng: np.random.Generator) -> Patches:
    """Return the patch turned by 90 or 270 degrees and moved: its structure, where and how it does not belong."""
    turned = np.rot90(patch, int(rng.choice([1, 3])), axes=(1, 2))
    side = patch.shape[1]
    return np.roll(turned, tuple(rng.integers(side // 8, side - side // 8, 2)), axis=(1, 2))


def worn(patch: Patches, rng: np.random.Generator) -> Patches:
    """Return the patch with its contrast to its surroundings cut to a third or less, or doubled."""
    around = np.stack([cv2.GaussianBlur(np.ascontiguousarray(p), (0, 0), patch.shape[1] / 16) for p in patch])
    factor = rng.choice([rng.uniform(0.0, 0.35), rng.uniform(1.8, 2.5)])
    return np.asarray(around + np.float32(factor) * (patch - around), np.float32)


def swirl(patch: Patches, rng: np.random.Generator) -> Patches:
    """Return the patch wound up around its middle by up to half a turn: its structure bent smoothly."""
    side = patch.shape[1]
    middle = (side - 1) / 2
    rows, columns = np.mgrid[:side, :side].astype(np.float32) - np.float32(middle)
    turn = rng.choice([-1.0, 1.0]) * rng.uniform(1.5, 3.0) * np.exp(-np.hypot(rows, columns) / (side / 5))
    x = middle + columns * np.cos(turn) - rows * np.sin(turn)
    y = middle + columns * np.sin(turn) + rows * np.cos(turn)
    where = x.astype(np.float32), y.astype(np.float32)
    planes = [
        cv2.remap(np.ascontiguousarray(p), *where, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) for p in patch
    ]
    return np.stack(planes)


#: What shows through the mask of a region, by kind; a thread has a mask of its own.
KINDS: Final[dict[str, Content]] = {
    "stain": stain,
    "misplaced": misplaced,
    "worn": worn,
    "swirl": swirl,
    "thread": stain,
}


def trial_defects(kind: str, patches: Patches, rng: np.random.Generator) -> Corrupted:
    """Return copies of ``patches`` (n, channels, side, side) with one defect of ``kind`` each, and where it is.

    Raises
    ------
    KeyError
        If the kind is none of ``KINDS``.
    """
    damaged = patches.copy()
    changed = np.zeros_like(patches[:, :1])
    for patch, where in zip(damaged, changed, strict=True):
        mask = thread_mask(patch.shape[1], rng) if kind == "thread" else _region(patch.shape[1], rng)
        patch += mask * (KINDS[kind](patch, rng) - patch)
        where[0] = mask
    return Corrupted(damaged, changed)


def thread_mask(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a wavy thin curve across a patch, (side, side), values 0 to 1."""
    points = np.cumsum(rng.normal(0, side / 12, (6, 2)) + rng.normal(0, side / 10, 2), axis=0)
    points += rng.uniform(0.3, 0.7, 2) * side - points.mean(axis=0)
    steps = np.linspace(0, len(points) - 1, 64)
    smooth = np.stack([np.interp(steps, range(len(points)), points[:, axis]) for axis in (0, 1)], axis=1)
    canvas = np.zeros((side, side), np.uint8)
    cv2.polylines(
        canvas, [np.round(smooth * 8).astype(np.int32)], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA, 3
    )
    return canvas.astype(np.float32) / np.float32(255)


def _region(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a region's soft mask in a patch, (side, side), values 0 to 1."""
    size = int(np.exp(rng.uniform(*np.log(_SIZE))) * side) | 1
    y, x = rng.integers(0, side - size + 1, 2)
    mask = np.zeros((side, side), np.float32)
    mask[y : y + size, x : x + size] = region_mask(size, rng)
    return mask


def _deviation(patch: Patches) -> NDArray[np.float32]:
    return np.asarray(patch.std(axis=(1, 2), keepdims=True).clip(_LEAST_DEVIATION), np.float32)
