"""Data sets in the MVTec layout, and what the scripts that write some draw with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Picture = NDArray[Any]
Mask = NDArray[np.bool_]

TEST_GOOD = 12


def write_set(
    folder: Path,
    train: Callable[[], Picture],
    test: Callable[[], Picture],
    damaged: Mapping[str, Callable[[], tuple[Picture, Mask]]],
    learn: int,
    each: int,
) -> None:
    """Write ``learn`` good pictures to learn from, good ones to test on, and ``each`` with their masks of a kind."""

    def save(path: Path, image: Picture) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)

    for number in range(learn):
        save(folder / f"train/good/{number:03}.png", train())
    for number in range(TEST_GOOD):
        save(folder / f"test/good/{number:03}.png", test())
    for kind, draw in damaged.items():
        for number in range(each):
            image, mask = draw()
            save(folder / f"test/{kind}/{number:03}.png", image)
            save(folder / f"ground_truth/{kind}/{number:03}_mask.png", (mask * 255).astype(np.uint8))


def blob(
    height: int, width: int, radius_px: float, rng: np.random.Generator, at: tuple[float, float] | None = None
) -> tuple[Mask, tuple[float, float]]:
    """Return an uneven round area and its centre (y, x), which lies anywhere but at the border unless it is given."""
    rough = gaussian_filter(rng.normal(size=(height, width)), radius_px / 3)
    y, x = np.mgrid[:height, :width]
    centre = (rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width) if at is None else at
    away = np.hypot((y - centre[0]) * rng.uniform(0.7, 1.4), x - centre[1])
    return radius_px - away + rough / rough.std() * radius_px * 0.25 > 0, centre


def line(
    height: int,
    width: int,
    steps: tuple[int, int],
    bend: float,
    rng: np.random.Generator,
    at: tuple[float, float] | None = None,
) -> Mask:
    """Return a line a pixel wide from ``at`` (y, x), or anywhere: steps of two pixels, each bent a little."""
    point = rng.uniform(0.15, 0.85, 2) * (width, height) if at is None else np.array(at[::-1], float)
    angle = rng.uniform(0, 6.28)
    points = [point]
    for _ in range(rng.integers(*steps)):
        angle += rng.normal(0, bend)
        point = point + 2 * np.array([np.cos(angle), np.sin(angle)])
        points.append(point)
    drawn = np.zeros((height, width), np.uint8)
    cv2.polylines(drawn, [np.array(points).astype(np.int32)], False, 1, 1)
    return np.asarray(drawn > 0)


def wider(mask: Mask, px: int) -> Mask:
    """Return an area dilated by a square of ``px``."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((px, px), np.uint8)) > 0)


def lit(
    image: Picture, rng: np.random.Generator, level: float = 0.08, slope: float = 0.06, noise: float = 2.0
) -> Picture:
    """Return a picture of another light, by ``level`` at most and more so on one side, with noise; 8-bit."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    light = 1 + rng.uniform(-level, level)
    light = light + rng.uniform(-slope, slope) * (y - 0.5) + rng.uniform(-slope, slope) * (x - 0.5)
    shown = image * (light[..., None] if image.ndim == 3 else light) + rng.normal(0, noise, image.shape)
    return np.asarray(np.clip(shown, 0, 255).astype(np.uint8))
