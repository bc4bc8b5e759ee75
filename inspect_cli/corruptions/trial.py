"""Defects to try detectors on: other kinds than methods are trained with, so that the trial proves something.

The Noising Filter Bank has hard rectangles, straight lines and arcs of one colour, noise, blur and morphology; the
deformed patches of SSAE have elastic displacement; what is scattered for ``feature-direct`` has shifted brightness,
foreign and turned structure, blur, grain and threads. Here structure is moved a little, wound up, worn (akin to that
blur, at a larger scale), pitted or creased.
The strength is measured in standard deviations of the patch itself: a defect is as visible on faint material as on
strong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

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

SoftMask = NDArray[np.float32]


class Defect(NamedTuple):
    """What shows through a mask (side, side), values 0 to 1: ``content`` (channels, side, side)."""

    content: Patches
    mask: SoftMask


def dislocated(patch: Patches, rng: np.random.Generator) -> Defect:
    """Return a region of the patch moved by 4 to 15 px: its structure does not meet that around it."""
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(4, 15)
    moved = np.roll(patch, (round(far * np.sin(angle)), round(far * np.cos(angle))), axis=(1, 2))
    return Defect(moved, _region(patch.shape[1], rng))


def worn(patch: Patches, rng: np.random.Generator) -> Defect:
    """Return a region with its contrast to its surroundings cut to a third or less, or doubled."""
    around = np.stack([cv2.GaussianBlur(np.ascontiguousarray(p), (0, 0), patch.shape[1] / 16) for p in patch])
    factor = rng.choice([rng.uniform(0.0, 0.35), rng.uniform(1.8, 2.5)])
    return Defect(around + np.float32(factor) * (patch - around), _region(patch.shape[1], rng))


def swirl(patch: Patches, rng: np.random.Generator) -> Defect:
    """Return a region of the patch wound up around its middle by up to half a turn: its structure bent smoothly."""
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
    return Defect(np.stack(planes), _region(side, rng))


def pitted(patch: Patches, rng: np.random.Generator) -> Defect:
    """Return a region sown with small soft pits, darker or brighter by 2 to 4 standard deviations."""
    side, mask = patch.shape[1], _region(patch.shape[1], rng)
    seeds = (rng.random((side, side)) < rng.uniform(0.01, 0.04)).astype(np.float32)
    sigma = rng.uniform(0.8, 2.0)
    pits = np.minimum(cv2.GaussianBlur(seeds, (0, 0), sigma) * np.float32(2 * np.pi * sigma**2), 1.0)
    depth = np.float32(rng.choice([-1.0, 1.0]) * rng.uniform(2.0, 4.0))
    return Defect(patch + depth * pits * _deviation(patch), mask)


def crease(patch: Patches, rng: np.random.Generator) -> Defect:
    """Return a ridge across the patch, bright on one side and dark on the other, as a fold or a dent's rim is."""
    side = patch.shape[1]
    rows, columns = np.mgrid[:side, :side].astype(np.float32) - np.float32((side - 1) / 2)
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.2, 0.2) * side
    bend = rng.uniform(-0.3, 0.3) / side
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = (rows * np.cos(angle) - columns * np.sin(angle) - offset + bend * along**2) / rng.uniform(2.0, 5.0)
    ridge = across * np.exp(0.5 - across**2 / 2) * rng.uniform(1.0, 2.5)
    length = rng.uniform(0.15, 0.4) * side
    mask = ((np.abs(across) < 2) & (np.abs(along) < length)).astype(np.float32)
    return Defect(patch + ridge.astype(np.float32) * _deviation(patch), mask)


#: What a defect is, by kind: each takes a patch (channels, side, side) in the unit range; contents may lie beyond it.
KINDS: Final[dict[str, Callable[[Patches, np.random.Generator], Defect]]] = {
    "dislocated": dislocated,
    "worn": worn,
    "swirl": swirl,
    "pitted": pitted,
    "crease": crease,
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
        content, mask = KINDS[kind](patch, rng)
        patch += mask * (content - patch)
        where[0] = mask
    return Corrupted(damaged, changed)


def _region(side: int, rng: np.random.Generator) -> SoftMask:
    """Return a region's soft mask in a patch, (side, side), values 0 to 1."""
    size = int(np.exp(rng.uniform(*np.log(_SIZE))) * side) | 1
    y, x = rng.integers(0, side - size + 1, 2)
    mask = np.zeros((side, side), np.float32)
    mask[y : y + size, x : x + size] = region_mask(size, rng)
    return mask


def _deviation(patch: Patches) -> NDArray[np.float32]:
    return np.asarray(patch.std(axis=(1, 2), keepdims=True).clip(_LEAST_DEVIATION), np.float32)
