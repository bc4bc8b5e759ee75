"""Flips and quarter turns of training patches."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Augmentation = Literal["none", "flip", "turn"]


def turned(
    patches: NDArray[Any], masks: NDArray[np.bool_] | None, rng: np.random.Generator, how: Augmentation
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return patches (n, side, side[, channels]) and masks (n, side, side), each pair turned alike at random.

    ``flip`` mirrors left-right and top-bottom, ``turn`` also turns by multiples of 90 degrees (SSAE section 4).
    """
    if how == "none":
        return patches, masks
    places = [_place(rng, how) for _ in patches]
    moved = np.stack([_move(patch, *place) for patch, place in zip(patches, places, strict=True)])
    if masks is None:
        return moved, None
    return moved, np.stack([_move(mask, *place) for mask, place in zip(masks, places, strict=True)])


def _place(rng: np.random.Generator, how: Augmentation) -> tuple[bool, bool, int]:
    across, down, quarters = rng.integers(2), rng.integers(2), rng.integers(4)
    return bool(across), bool(down), int(quarters) if how == "turn" else 0


def _move(pixels: NDArray[Any], across: bool, down: bool, quarters: int) -> NDArray[Any]:
    pixels = pixels[:, ::-1] if across else pixels
    pixels = pixels[::-1] if down else pixels
    return np.rot90(pixels, quarters)
