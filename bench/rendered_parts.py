"""Write data sets in the MVTec layout, of parts drawn by formula: `rendered_parts.py OUT`.

Five sets in which no two good parts are the same, as on a real line: a cast impeller at any angle under a lamp that
stays where it is, with a skin of its own and some small pits (impeller); a box that lies alike, with screws turned at
random and another number on its label (housing, colour); ground metal with chance lines, uneven light and borders
(ground); a turned strip between plastic, with a few small pits (commutator); a small disc anywhere on a background
that was cut out, all zero (disc). Each has three to five kinds of defects.

    python bench/rendered_parts.py rendered
    inspect bench detect rendered/* --methods auto,patchcore --budget 5m
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from data_set import Mask, Picture, blob, line, lit, wider, write_set
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

#: How much light differs, by level and slope, and the blur of the lens.
LEVEL, SLOPE, BLUR_PX = 0.1, 0.1, 0.6
DEFECTIVE: Final = 30
#: Middles (y, x) of the housing's screws.
SCREWS: Final = ((60, 80), (60, 350), (270, 80), (270, 350))

Field = NDArray[np.float64]
Draw = Callable[[np.random.Generator, str | None], tuple[Picture, Mask]]


def rough(height: int, width: int, sigma_px: float | tuple[float, float], rng: np.random.Generator) -> Field:
    """Return smoothed noise (height, width) of standard deviation 1."""
    noise = gaussian_filter(rng.normal(size=(height, width)), sigma_px)
    return np.asarray(noise / noise.std())


def soft(mask: Mask, sigma_px: float) -> Field:
    """Return a mask from 0 to 1 with soft edges."""
    return np.asarray(gaussian_filter(mask.astype(float), sigma_px))


def step(distance_px: Field, width_px: float = 1.3) -> Field:
    """Return 1 where a distance lies below 0, 0 above, with a slope between."""
    return np.asarray(1 / (1 + np.exp((distance_px / width_px).clip(-60, 60))))


def somewhere(region: Mask, rng: np.random.Generator) -> tuple[float, float]:
    """Return a place (y, x) inside a region."""
    ys, xs = np.nonzero(region)
    chosen = rng.integers(len(ys))
    return float(ys[chosen]), float(xs[chosen])


def shaded(height_px: Field, light: tuple[float, float, float], gloss: float) -> Field:
    """Return the light that a relief (height, width) sends up: what is scattered and a highlight."""
    down, across = np.gradient(height_px)
    normal = np.stack([-across, -down, np.ones_like(height_px)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    to_lamp = np.array(light) / np.linalg.norm(light)
    half = to_lamp + np.array((0, 0, 1))
    shine = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 40
    return np.asarray(0.25 + 0.75 * np.clip(normal @ to_lamp, 0, 1) + gloss * shine)


def impeller(rng: np.random.Generator, defect: str | None) -> tuple[Picture, Mask]:
    """A cast disc with six curved vanes."""
    side, radius = 320, 140 * rng.uniform(0.99, 1.01)
    turned, (y0, x0) = rng.uniform(0, 2 * np.pi), side / 2 + rng.uniform(-6, 6, 2)
    y, x = np.mgrid[:side, :side].astype(float)
    away, angle = np.hypot(y - y0, x - x0), np.arctan2(y - y0, x - x0) - turned
    off_vane = np.abs(((angle + 0.012 * (away - 40)) * 3 / np.pi) % 1 - 0.5) * np.pi * away / 3
    vanes = np.exp(-((off_vane / (4.5 * rng.uniform(0.9, 1.1))) ** 4)) * (away > 38) * (away < radius - 12)
    key = (np.abs(angle % (2 * np.pi) - np.pi) < 0.25) & (away > 10) & (away < 19)
    relief = (
        8 * step(away - radius, 1.5) + 6 * np.exp(-(((away - radius + 8) / 4) ** 4)) + 7 * gaussian_filter(vanes, 1)
    )
    relief += 8 * step(away - 34, 1.5) - 10 * step(away - 14) - 8 * soft(key, 1)
    relief += 0.35 * rough(side, side, 1.2, rng) + 0.5 * rough(side, side, 5, rng)
    albedo = (0.55 + 0.05 * rough(side, side, 1, rng) + 0.04 * rough(side, side, 8, rng)) * rng.uniform(0.85, 1.15)
    disc, inner = away < radius, away < radius - 6
    for _ in range(rng.poisson(6)):
        albedo = albedo * (1 - 0.25 * soft(blob(side, side, 1.3, rng, somewhere(disc, rng))[0], 0.5))
    mask = np.zeros((side, side), bool)
    if defect == "pinholes":
        for _ in range(rng.integers(3, 9)):
            mask |= blob(side, side, rng.uniform(2, 4), rng, somewhere(inner, rng))[0]
        relief, albedo = relief - 7 * soft(mask, 0.8), albedo * (1 - 0.6 * soft(mask, 0.8))
    elif defect == "blowhole":
        mask = blob(side, side, rng.uniform(7, 20), rng, somewhere(inner, rng))[0]
        relief, albedo = relief - 10 * soft(mask, 1.5), albedo * (1 - 0.45 * soft(mask, 1.5))
    elif defect == "scratch":
        drawn = line(side, side, (15, 45), 0.08, rng, somewhere(inner, rng))
        mask, relief = wider(drawn, 3), relief - 7.5 * soft(drawn, 0.9)
    elif defect == "chip":
        at = rng.uniform(0, 2 * np.pi)
        edge = (y0 + radius * np.sin(at), x0 + radius * np.cos(at))
        mask = blob(side, side, rng.uniform(9, 22), rng, edge)[0] & (away < radius + 2)
        relief, albedo = relief * (1 - soft(mask, 1)), albedo * (1 - 0.5 * soft(mask, 1))
    elif defect == "flash":
        mask = blob(side, side, rng.uniform(8, 22), rng, somewhere(inner, rng))[0]
        relief = relief + soft(mask, 1) * (3 + 1.3 * rough(side, side, 1.5, rng))
    return np.where(soft(disc, 1) > 0.5, albedo, 0.12) * shaded(relief, (0.45, -0.5, 0.8), 0.5), mask


def put_screws(relief: Field, colour: Field, missing: int | None, rng: np.random.Generator) -> None:
    """Put screws into a relief (height, width) and its colour, all but the ``missing`` one."""
    y, x = np.mgrid[: relief.shape[0], : relief.shape[1]].astype(float)
    for number, (y0, x0) in enumerate(SCREWS):
        away, turned = np.hypot(y - y0, x - x0), rng.uniform(0, 2 * np.pi)
        relief -= 4 * step(away - 17, 1)
        if number == missing:
            relief -= 8 * step(away - 15, 1)
            colour[away < 15] = 0.06
            continue
        along, beside = (
            np.cos(turned) * (x - x0) + np.sin(turned) * (y - y0),
            np.cos(turned) * (y - y0) - np.sin(turned) * (x - x0),
        )
        cross = ((np.abs(along) < 2.2) | (np.abs(beside) < 2.2)) & (away < 9)
        relief += 5 * step(away - 13, 1) - 4 * soft(cross, 0.8)
        colour[away < 13] = (0.7, 0.7, 0.72)
        colour[cross] = 0.3


def labelled(colour: Field, rng: np.random.Generator) -> Field:
    """Return the colour with a label and a number of its own."""
    colour[115:215, 255:345] = (0.85, 0.88, 0.88)
    printed = (colour * 255).astype(np.uint8)
    for row in range(3):
        number_of_part = "".join(rng.choice(list("0123456789ABCDEF"), 6))
        cv2.putText(
            printed,
            number_of_part,
            (262, 140 + 30 * row),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.55,
            (20, 20, 25),
            1,
            cv2.LINE_AA,
        )
    return np.asarray(printed / 255.0)


def housing(rng: np.random.Generator, defect: str | None) -> tuple[Picture, Mask]:
    """A painted box with a bore, four screws and a label."""
    height, width = 330, 430
    y, x = np.mgrid[:height, :width].astype(float)
    body = (np.abs(y - height / 2) < 130) & (np.abs(x - width / 2) < 180)
    bore = np.hypot(y - 165, x - 150)
    relief = 6 * soft(body, 1.5) - 8 * step(bore - 52)
    relief += 0.5 * ((bore > 52) & (bore < 78)) * np.sin(bore * 1.3 + 0.8 * rough(height, width, 3, rng))
    colour = np.where(body[..., None], np.array([0.52, 0.55, 0.5]) * rng.uniform(0.92, 1.08), 0.1)
    colour[bore < 50] = 0.2
    missing = int(rng.integers(len(SCREWS))) if defect == "missing" else None
    put_screws(relief, colour, missing, rng)
    colour = labelled(colour, rng)
    relief += 0.25 * rough(height, width, 1, rng) + 0.3 * rough(height, width, 4, rng)
    mask = np.zeros((height, width), bool)
    inner = (np.abs(y - height / 2) < 110) & (np.abs(x - width / 2) < 160)
    if missing is not None:
        mask = np.hypot(y - SCREWS[missing][0], x - SCREWS[missing][1]) < 14
    elif defect == "scratch":
        drawn = line(height, width, (15, 50), 0.08, rng, somewhere(inner, rng))
        mask, relief = wider(drawn, 3), relief - 6 * soft(drawn, 0.9)
    elif defect == "oil":
        mask = blob(height, width, rng.uniform(12, 35), rng, somewhere(inner, rng))[0]
        colour = colour * (1 - soft(mask, 4)[..., None] * (0.35, 0.3, 0.2))
    elif defect == "dent":
        mask = blob(height, width, rng.uniform(8, 20), rng, somewhere(inner, rng))[0]
        relief = relief - 5 * soft(mask, 3)
    elif defect == "swarf":
        mask = blob(height, width, rng.uniform(4, 9), rng, somewhere(inner, rng))[0]
        relief = relief + 4 * soft(mask, 1)
        colour[mask] = rng.uniform(0.4, 0.8)
    image = colour * shaded(relief, (-0.3, -0.4, 0.9), 0.25)[..., None]
    move = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-1.5, 1.5), 1)
    move[:, 2] += rng.uniform(-5, 5, 2)
    moved = cv2.warpAffine(mask.astype(np.uint8), move, (width, height)) > 0
    return cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REPLICATE), moved


def ground(rng: np.random.Generator, defect: str | None) -> tuple[Picture, Mask]:
    """Metal ground along the image, between dark borders."""
    height, width = 300, 420
    y, x = np.mgrid[:height, :width].astype(float)
    lines = sum(
        share * rough(height, width, sigma_px, rng)
        for share, sigma_px in ((1, (0.6, 60)), (1, (1.2, 120)), (0.8, (3, 200)), (0.4, (0.7, 8)))
    )
    image = 0.5 + 0.06 * lines + 0.02 * rng.normal(size=(height, width))
    band = y - rng.uniform(0, height) + rng.uniform(-0.2, 0.2) * x
    image *= 1 + rng.uniform(0.1, 0.35) * np.exp(-((band / rng.uniform(50, 120)) ** 2))
    image *= 1 + rng.uniform(-0.15, 0.15) * (x / width - 0.5)
    inside = step(rng.uniform(8, 22) - x, 1.5) * step(x - width + rng.uniform(8, 22), 1.5)
    mask = np.zeros((height, width), bool)
    if defect == "scratch":
        at = rng.uniform(40, height - 40), rng.uniform(60, width - 60)
        drawn = line(height, width, (20, 60), 0.05, rng, at)
        relief = soft(drawn, 0.8)
        mask, image = wider(drawn, 3), image + rng.uniform(0.3, 0.75) * (relief - np.roll(relief, 1, 0))
    elif defect == "dent":
        mask = blob(height, width, rng.uniform(7, 18), rng)[0]
        image = image + 3 * np.gradient(soft(mask, 3))[0]
    elif defect == "rust":
        mask = blob(height, width, rng.uniform(10, 40), rng)[0]
        image = image * (1 - soft(mask, 3) * (0.2 + 0.06 * rough(height, width, 1.5, rng)))
    elif defect == "unground":
        mask = blob(height, width, rng.uniform(15, 45), rng)[0]
        image = image + soft(mask, 2) * (0.5 + 0.05 * rough(height, width, 1.5, rng) - image)
    elif defect == "hole":
        mask = blob(height, width, rng.uniform(3, 8), rng)[0]
        image = image * (1 - 0.7 * soft(mask, 0.8))
    return image * inside + 0.06 * (1 - inside), mask


def commutator(rng: np.random.Generator, defect: str | None) -> tuple[Picture, Mask]:
    """A strip of turned metal between plastic."""
    height, width = 620, 250
    y, x = np.mgrid[:height, :width].astype(float)
    from_middle = np.abs(y - height / 2 - rng.uniform(-8, 8))
    metal, inner = from_middle < 220, from_middle < 190
    lines = gaussian_filter(rng.normal(size=width), 0.7) + 6.4 * gaussian_filter(
        rng.normal(size=(height, width)), (25, 0.6)
    )
    turned = 0.55 + 0.035 * lines / lines.std() + 0.03 * rough(height, width, 12, rng)
    turned += 0.02 * rough(height, width, 0.8, rng)
    image = np.where(metal, turned, 0.22 + 0.03 * rough(height, width, 1.5, rng))
    image *= 1 - 0.4 * np.exp(-(((from_middle - 220) / 2) ** 2))
    image *= 1 + 0.15 * np.cos(3 * (x - width / 2 - rng.uniform(-28, 28)) / width)
    for _ in range(rng.poisson(12)):
        image *= 1 - 0.25 * soft(blob(height, width, rng.uniform(1, 2), rng, somewhere(metal, rng))[0], 0.7)
    mask = np.zeros((height, width), bool)
    if defect == "crack":
        drawn = line(height, width, (18, 70), 0.45, rng, somewhere(inner, rng)) & metal
        crack = wider(drawn, int(rng.integers(1, 3)))
        image *= 1 - rng.uniform(0.35, 0.65) * np.clip(1.5 * soft(crack, 0.8), 0, 1)
        mask = wider(crack, 5)
    elif defect == "pit":
        mask = blob(height, width, rng.uniform(5, 12), rng, somewhere(inner, rng))[0]
        rim = (soft(np.roll(mask, -2, 0), 1) - soft(mask, 1)).clip(0)
        image = image * (1 - 0.4 * soft(mask, 2)) + 0.1 * rim
    elif defect == "smear":
        mask = blob(height, width, rng.uniform(14, 30), rng, somewhere(inner, rng))[0]
        image = image + 0.9 * soft(mask, 3) * (gaussian_filter(image, 4) - image)
    return image, mask


def disc(rng: np.random.Generator, defect: str | None) -> tuple[Picture, Mask]:
    """A rough disc anywhere in a picture that is black beside it, as where a part was cut out."""
    side = 384
    y, x = np.mgrid[:side, :side].astype(float)
    y0, x0 = rng.uniform(120, side - 120, 2)
    away = np.hypot(y - y0, x - x0)
    part, inner = away < 80, away < 68
    image = 0.5 + 0.05 * rough(side, side, 1.2, rng) + 0.03 * rough(side, side, 6, rng)
    image *= 1 - 0.25 * np.exp(-(((away - 74) / 4) ** 2)) - 0.2 * np.exp(-(((away - 30) / 3) ** 2))
    mask = np.zeros((side, side), bool)
    if defect == "spot":
        mask = blob(side, side, rng.uniform(4, 10), rng, somewhere(inner, rng))[0] & part
        image = image * (1 - 0.45 * soft(mask, 1))
    elif defect == "scratch":
        drawn = line(side, side, (12, 35), 0.08, rng, somewhere(inner, rng)) & part
        mask, image = wider(drawn, 3), image + 0.6 * soft(drawn, 0.8)
    elif defect == "smooth":
        mask = blob(side, side, rng.uniform(12, 22), rng, somewhere(inner, rng))[0] & part
        image = image + 0.9 * soft(mask, 2) * (gaussian_filter(image, 4) - image)
    return np.where(part, image, 0.0), mask


#: What draws a part, its kinds of defects, and how many good parts there are to learn from.
SETS: Final[dict[str, tuple[Draw, tuple[str, ...], int]]] = {
    "impeller": (impeller, ("pinholes", "blowhole", "scratch", "chip", "flash"), 30),
    "housing": (housing, ("missing", "scratch", "oil", "dent", "swarf"), 30),
    "ground": (ground, ("scratch", "dent", "rust", "unground", "hole"), 40),
    "commutator": (commutator, ("crack", "pit", "smear"), 60),
    "disc": (disc, ("spot", "scratch", "smooth"), 24),
}


def photographed(draw: Draw, rng: np.random.Generator, defect: str | None) -> tuple[Picture, Mask]:
    """Return a part as a camera sees it, 8-bit, and where its defect is."""
    image, mask = draw(rng, defect)
    blurred = gaussian_filter(image, (BLUR_PX, BLUR_PX, 0)[: image.ndim])
    shown = lit(255 * blurred, rng, LEVEL, SLOPE)
    shown[image == 0] = 0  # cut out
    return shown, mask


def write(folder: Path, draw: Draw, kinds: tuple[str, ...], learn: int) -> None:
    """Write one data set."""
    shot = partial(photographed, draw, np.random.default_rng(3))

    def good() -> Picture:
        return shot(None)[0]

    write_set(folder, good, good, {kind: partial(shot, kind) for kind in kinds}, learn, DEFECTIVE // len(kinds))


def main(out: Path) -> None:
    """Write the sets below ``out``."""
    for name, drawn in SETS.items():
        write(out / name, *drawn)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
