"""From a surface to the maps that a photometric-stereo rig writes, with its sensor's noise.

Every map is a whole number of steps of 16 (12 significant bits, as the camera delivers), so that files
stay small. What a stored value means is in :data:`ENCODINGS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np

from inspect_cli.sample.part import FloatMap, Image, PartKey
from inspect_cli.sample.surface import PIXEL_PITCH_UM, Surface, row_strips

FULL_WELL_ELECTRONS: Final = 7000  # shot noise of 1.2 % at full scale
READ_NOISE: Final = 0.004  # of full scale, in the albedo
NORMAL_NOISE: Final = 0.01  # standard deviation of each component of a normal
# A central difference of slopes with noise s along both axes has the noise s / pitch.
CURVATURE_NOISE_PER_UM: Final = NORMAL_NOISE / PIXEL_PITCH_UM
GRADIENT_FULL_SCALE: Final = 1.25  # slope (51 degrees) stored as 65535
CURVATURE_FULL_SCALE_PER_UM: Final = 0.15  # Laplacian of the height stored as 32767
QUANTUM: Final = 16  # 16 bits hold 12 significant ones

#: Map -> stored type, physical value of the type's largest number, unit.
ENCODINGS: Final[dict[str, dict[str, Any]]] = {
    "albedo": {"dtype": "uint16", "channels": 1, "full_scale": 1.0, "unit": "reflectance"},
    "normal": {"dtype": "int16", "channels": 3, "full_scale": 1.0, "unit": "component x, y, z"},
    "gradient": {"dtype": "uint16", "channels": 1, "full_scale": GRADIENT_FULL_SCALE, "unit": "slope"},
    "curvature": {"dtype": "int16", "channels": 1, "full_scale": CURVATURE_FULL_SCALE_PER_UM, "unit": "1/um"},
}


def slopes(height_um: FloatMap) -> tuple[FloatMap, FloatMap]:
    """Return dh/dx and dh/dy (dimensionless): central differences, one-sided at the border."""
    along_y: FloatMap = np.gradient(height_um, PIXEL_PITCH_UM, axis=0)
    along_x: FloatMap = np.gradient(height_um, PIXEL_PITCH_UM, axis=1)
    return along_x, along_y


def normals(height_um: FloatMap) -> FloatMap:
    """Return the unit normals (-dh/dx, -dh/dy, 1) / length, (rows, columns, 3) as x, y, z."""
    along_x, along_y = slopes(height_um)
    return _unit(np.dstack((-along_x, -along_y, np.ones_like(along_x))))


def curvature(height_um: FloatMap) -> FloatMap:
    """Return the Laplacian of the height in 1/um (five-point stencil; the border repeats its neighbour)."""
    laplacian: FloatMap = cv2.Laplacian(height_um, cv2.CV_32F, ksize=1, scale=1 / PIXEL_PITCH_UM**2)
    laplacian[0], laplacian[-1] = laplacian[1], laplacian[-2]
    laplacian[:, 0], laplacian[:, -1] = laplacian[:, 1], laplacian[:, -2]
    return laplacian


def quantise(values: FloatMap, full_scale: float, dtype: type[np.uint16] | type[np.int16]) -> Image:
    """Encode physical ``values`` as integers; beyond full scale they saturate at the last step."""
    limits = np.iinfo(dtype)
    steps = values * np.float32(limits.max / full_scale / QUANTUM)
    np.rint(steps, out=steps)
    largest = limits.max // QUANTUM
    np.clip(steps, 0 if limits.min == 0 else -largest, largest, out=steps)
    return steps.astype(dtype) * dtype(QUANTUM)


def albedo_image(surface: Surface, rng: np.random.Generator) -> Image:
    """Photograph the reflectance: shot noise that grows with the light, and read noise; uint16."""
    image = np.empty(surface.reflectance.shape, np.uint16)
    for rows in row_strips(len(image)):
        light = surface.reflectance[rows]
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        noise *= np.sqrt(light / FULL_WELL_ELECTRONS + np.float32(READ_NOISE**2))
        noise += light
        image[rows] = quantise(noise, 1.0, np.uint16)
    return image


def normal_image(surface: Surface, rng: np.random.Generator) -> Image:
    """Measure the normals: independent noise on each component, then unit length again; int16 x 3.

    Photometric stereo delivers unit vectors whatever its noise; without the last step z would saturate
    wherever the surface is level.
    """
    image = np.empty((*surface.height_um.shape, 3), np.int16)
    for rows in row_strips(len(image)):
        halo, inner = _with_halo(rows, len(image))
        noisy = normals(surface.height_um[halo])[inner]
        noisy += np.float32(NORMAL_NOISE) * rng.standard_normal(noisy.shape, dtype=np.float32)
        image[rows] = quantise(_unit(noisy), 1.0, np.int16)
    return image


def gradient_image(surface: Surface, rng: np.random.Generator) -> Image:
    """Measure the slope, the length of the gradient of the height, from slopes with noise; uint16."""
    image = np.empty(surface.height_um.shape, np.uint16)
    for rows in row_strips(len(image)):
        halo, inner = _with_halo(rows, len(image))
        along_x, along_y = (slope[inner] for slope in slopes(surface.height_um[halo]))
        noise = np.float32(NORMAL_NOISE) * rng.standard_normal((2, *along_x.shape), dtype=np.float32)
        image[rows] = quantise(np.hypot(along_x + noise[0], along_y + noise[1]), GRADIENT_FULL_SCALE, np.uint16)
    return image


def curvature_image(surface: Surface, rng: np.random.Generator) -> Image:
    """Measure the Laplacian of the height, with the noise that normals of this rig give it; int16."""
    laplacian = curvature(surface.height_um)
    image = np.empty(laplacian.shape, np.int16)
    for rows in row_strips(len(image)):
        noise = rng.standard_normal(laplacian[rows].shape, dtype=np.float32)
        noise *= np.float32(CURVATURE_NOISE_PER_UM)
        image[rows] = quantise(laplacian[rows] + noise, CURVATURE_FULL_SCALE_PER_UM, np.int16)
    return image


#: Map -> function that makes its image from a surface and the noise of that map.
MAPS: Final[dict[str, Callable[[Surface, np.random.Generator], Image]]] = {
    "albedo": albedo_image,
    "normal": normal_image,
    "gradient": gradient_image,
    "curvature": curvature_image,
}


def photograph(surface: Surface, key: PartKey, map_name: str) -> Image:
    """Return one map of the part, which does not depend on the other maps that are asked for."""
    return MAPS[map_name](surface, key.rng(f"noise of {map_name}"))


def _unit(vectors: FloatMap) -> FloatMap:
    vectors /= np.sqrt(np.einsum("yxc,yxc->yx", vectors, vectors))[..., None]
    return vectors


def _with_halo(rows: slice, height_px: int) -> tuple[slice, slice]:
    """Return the rows with one more on each side where there is one, and where the rows lie in them."""
    start = max(rows.start - 1, 0)
    halo = slice(start, min(rows.stop + 1, height_px))
    return halo, slice(rows.start - start, rows.stop - start)
