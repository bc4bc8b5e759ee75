"""Write data sets in the MVTec layout, made of photographs: `photographs.py OUT [LIGHTS]`.

Six are of photographs that scikit-image ships.

Three real textures (brick, grass, gravel): crops of the left part to learn from, of the right part to test on. Two
scenes that always lie alike (coins, coffee): the whole picture, shifted, turned and scaled a little. A round plate
at any angle (plate), cut out of the latter, on a dark ground. Every image has its own light and noise. The defects
are of kinds that no detector here is trained with or chosen by: a piece of another photograph, a scratch with a
bright and a dark side, a stain that darkens, a bulge, a hole with its shadow.

With a folder LIGHTS of photographs of one thing under several lights (`Coin_Italy` of the microgeometry_ps data: 14
raw Bayer PNG of 3664x2748), another set `lights` is written: each of its images is another mixture of them.

    pip install scikit-image
    python bench/photographs.py photographs
    inspect bench detect photographs/* --methods feature-direct,feature-ae,patchcore --budget 60s
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import skimage
from data_set import Mask, Picture, blob, line, lit, wider, write_set
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

SHIPPED = Path(skimage.__file__).parent / "data"
TEXTURES = ("brick", "grass", "gravel")
CROP_PX, LEARN_PX = 192, 310
GROUND = 30.0
TRAIN, TEST_EACH = 24, 6


def photograph(name: str, colour: bool = False) -> Picture:
    """Return a photograph (height, width[, 3]), 8-bit."""
    found = cv2.imread(str(SHIPPED / name), cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    assert found is not None, f"{SHIPPED / name}: scikit-image ships it no more"
    return found


def soft(mask: Mask, sigma_px: float) -> NDArray[np.float64]:
    """Return a mask (height, width, 1) from 0 to 1 with soft edges."""
    return np.asarray(gaussian_filter(mask.astype(float), sigma_px)[..., None])


def foreign(image: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A piece of another photograph."""
    height, width = image.shape[:2]
    mask, _ = blob(height, width, rng.uniform(6, 22), rng)
    other = DONORS[rng.integers(len(DONORS))]
    y = int(rng.integers(0, other.shape[0] - height)) if other.shape[0] > height else 0
    x = int(rng.integers(0, other.shape[1] - width)) if other.shape[1] > width else 0
    large = cv2.resize(other, (max(width, other.shape[1]), max(height, other.shape[0])))
    share = soft(mask, 0.8)
    return image * (1 - share) + large[y : y + height, x : x + width, None] * share, mask


def scratch(image: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A line one pixel wide, bright on one side and dark on the other."""
    drawn = line(*image.shape[:2], (15, 50), 0.08, rng)
    bright = gaussian_filter(drawn.astype(float), 0.9)
    bright /= bright.max()
    relief = rng.uniform(25, 70) * (bright - np.roll(bright, 1, 0))
    return image + relief[..., None], wider(drawn, 3)


def stain(image: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """An area 15 to 35 % darker, with a soft edge."""
    mask, _ = blob(*image.shape[:2], rng.uniform(12, 35), rng)
    return image * (1 - soft(mask, 4) * rng.uniform(0.15, 0.35)), mask


def bulge(image: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """An area whose structure is magnified."""
    mask, (y0, x0) = blob(*image.shape[:2], rng.uniform(14, 28), rng)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    zoom = 1 - 0.45 * soft(mask, 3)[..., 0]
    at = [y0 + (y - y0) * zoom, x0 + (x - x0) * zoom]
    planes = [map_coordinates(image[..., i], at, order=1, mode="reflect") for i in range(image.shape[2])]
    return np.stack(planes, -1), mask


def hole(image: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A small black area with a shadow beside it."""
    mask, _ = blob(*image.shape[:2], rng.uniform(3, 9), rng)
    share, shadow = soft(mask, 0.7), soft(np.roll(mask, (3, 3), (0, 1)), 2)
    return image * (1 - 0.4 * shadow) * (1 - share) + 20 * share, mask


DEFECTS = {f.__name__: f for f in (foreign, scratch, stain, bulge, hole)}
DONORS = [photograph(name) for name in ("moon.png", "camera.png", "clock_motion.png", "page.png")]


def damaged(good: Callable[[], Picture], rng: np.random.Generator) -> dict[str, Callable[[], tuple[Picture, Mask]]]:
    """Return what draws a defective picture of each kind."""

    def draw(damage: Callable[[Picture, np.random.Generator], tuple[Picture, Mask]]) -> tuple[Picture, Mask]:
        image = good()
        bad, mask = damage(image.reshape(*image.shape[:2], -1).astype(float), rng)
        return np.clip(bad, 0, 255).astype(np.uint8).reshape(image.shape), mask

    return {kind: partial(draw, damage) for kind, damage in DEFECTS.items()}


def write(folder: Path, train: Callable[[], Picture], test: Callable[[], Picture], rng: np.random.Generator) -> None:
    """Write one data set, its pictures from ``train`` and ``test``."""
    write_set(folder, train, test, damaged(test, rng), learn=TRAIN, each=TEST_EACH)


def crop(image: Picture, left: int, right: int, rng: np.random.Generator) -> Picture:
    """Return a square of the columns from ``left`` to ``right``."""
    y, x = int(rng.integers(0, len(image) - CROP_PX)), int(rng.integers(left, right - CROP_PX + 1))
    return lit(image[y : y + CROP_PX, x : x + CROP_PX], rng)


def view(image: Picture, rng: np.random.Generator, away_px: int = 4) -> Picture:
    """Return the scene as a rig would see it that places parts to within ``away_px``, turned a little."""
    height, width = image.shape[:2]
    turn = rng.uniform(-away_px, away_px) / 4
    move = cv2.getRotationMatrix2D((width / 2, height / 2), turn, rng.uniform(0.99, 1.01))
    move[:, 2] += rng.uniform(-away_px, away_px, 2)
    return lit(cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REFLECT)[8:-8, 8:-8], rng)


def plate(scene: Picture) -> Picture:
    """Return a round piece of a grey scene with a bright rim, on a dark ground, (340, 340)."""
    square = cv2.copyMakeBorder(scene[60:360, 150:450], 20, 20, 20, 20, cv2.BORDER_REFLECT).astype(np.float32)
    y, x = np.mgrid[:340, :340] - 169.5
    away = np.hypot(y, x)
    return np.asarray(cv2.GaussianBlur(np.where(away < 140, square, np.where(away < 146, 200, GROUND)), (0, 0), 0.8))


def at_any_angle(image: Picture, rng: np.random.Generator, away_px: int = 8) -> Picture:
    """Return a part on the ground as a belt would bring it."""
    height, width = image.shape[:2]
    move = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(0, 360), rng.uniform(0.99, 1.01))
    move[:, 2] += rng.uniform(-away_px, away_px, 2)
    return lit(cv2.warpAffine(image, move, (width, height), borderValue=GROUND), rng)


def lights(folder: Path) -> Picture:
    """Return photographs under several lights (n, height, width) of 1000 px width, their mean mostly below 110."""
    planes = []
    for path in sorted(folder.glob("*.png")):
        raw = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert raw is not None, f"{path}: cannot be read"
        height, width = raw.shape[0] // 2, raw.shape[1] // 2  # the four colours of a raw pixel together
        grey = raw[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3))
        planes.append(cv2.resize(grey, (1000, 1000 * height // width), interpolation=cv2.INTER_AREA))
    stack = np.stack(planes)
    return np.asarray(stack * 110 / np.percentile(stack.mean(axis=0), 90))


def main(out: Path, photographed: Path | None) -> None:
    """Write the sets below ``out``."""
    rng = np.random.default_rng(5)
    for name in TEXTURES:
        image = photograph(f"{name}.png")
        learnt, unseen = (0, LEARN_PX), (LEARN_PX + 2, image.shape[1])
        write(out / name, lambda i=image, c=learnt: crop(i, *c, rng), lambda i=image, c=unseen: crop(i, *c, rng), rng)
    coffee = cv2.resize(photograph("coffee.png", colour=True), None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    for name, image in {"coins": photograph("coins.png"), "coffee": coffee}.items():
        write(out / name, lambda i=image: view(i, rng), lambda i=image: view(i, rng), rng)
    round_plate = plate(photograph("coffee.png"))
    belt = np.random.default_rng(21)
    write(out / "plate", lambda: at_any_angle(round_plate, belt), lambda: at_any_angle(round_plate, belt), belt)
    if photographed is not None:
        stack = lights(photographed)

        def mixed() -> Picture:
            share = rng.dirichlet(np.full(len(stack), 4.0))
            return view(np.tensordot(share, stack, 1), rng, away_px=8)

        write(out / "lights", mixed, mixed, rng)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
