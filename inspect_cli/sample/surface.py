"""Height and reflectance of good material: riblet foil (tracks) and steel plate (grain).

A material is first drawn as *layers*, so that a defect can act on the thing it damages:

============  ==========  ====================================================================
layer         combined    meaning
============  ==========  ====================================================================
``base_um``   added       height without the ribs (bend, grain, dents), um
``shade``     multiplied  reflectance without the tracks (clouds, fine grain, stains)
``shift_px``  added       displacement of the tracks along y (riblet only), px
``relief``    multiplied  height of the ribs, 1 = nominal (riblet only)
============  ==========  ====================================================================

:func:`compose` turns layers into a :class:`Surface`. Axis order is (y, x), y pointing down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, pi
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from inspect_cli.sample.part import FloatMap, PartKey

Layers = dict[str, FloatMap]

PIXEL_PITCH_UM: Final = 5.0
RIB_PERIOD_PX: Final = 16.0
# Half the height of a rib. With the profile tanh(k sin) the steepest flank has the slope
# 4.1 um * k / tanh(k) * 2 pi / 80 um = 0.53, that is ny = 0.47.
RIB_HALF_HEIGHT_UM: Final = 4.1
RIB_FLANK: Final = 1.5  # k: 0 is a sine, large values a trapezoid
TRACK_MEAN: Final = 0.5  # reflectance half way up a rib
TRACK_SWING: Final = 0.2  # tops 0.7, valleys 0.3
CONTRAST_OF_RELIEF: Final = 0.5  # share of the track contrast that vanishes with the ribs
CLOUD_DEPTH: Final = 0.25  # a dark cloud takes away at most this share of the light
#: Size of the steel's grains in px -> standard deviation of the slope along one axis, 0.12 together.
GRAIN_SLOPES: Final = {6.0: 0.085, 12.0: 0.08, 24.0: 0.04, 48.0: 0.015}
STRIP_ROWS: Final = 128  # rows worked on at a time: a few MB, so that they stay in the cache


@dataclass(frozen=True)
class Surface:
    """What the camera sees: height in um and reflectance in 0..1, both (rows, columns) float32."""

    height_um: FloatMap
    reflectance: FloatMap


def row_strips(rows: int) -> Iterator[slice]:
    """Yield slices of :data:`STRIP_ROWS` rows that cover ``rows`` from top to bottom."""
    for start in range(0, rows, STRIP_ROWS):
        yield slice(start, min(start + STRIP_ROWS, rows))


def smooth_field(rng: np.random.Generator, shape_yx: tuple[int, int], feature_yx_px: tuple[float, float]) -> FloatMap:
    """Return a Gaussian random field of mean 0 and variance 1 with features of about the given size.

    White noise is blurred on a coarse grid (an eighth of the feature size) and resized up, so that a
    field of clouds costs one interpolation.
    """
    steps = [max(1, round(feature / 8)) for feature in feature_yx_px]
    sigmas = [0.3 * feature / step for feature, step in zip(feature_yx_px, steps, strict=True)]
    kernels = [_unit_energy(_gaussian(sigma)) for sigma in sigmas]
    noise, core = _padded_noise(rng, shape_yx, steps, kernels)
    blurred = cv2.sepFilter2D(noise, cv2.CV_32F, kernels[1], kernels[0])[core]
    return _resize_up(blurred, shape_yx, steps)


def band_field(rng: np.random.Generator, shape_yx: tuple[int, int], feature_px: float) -> FloatMap:
    """Return a band-passed Gaussian random field of mean 0 and variance 1: grains of one size.

    The pass band is the difference of two Gaussian blurs one octave apart, which carries neither
    single pixels nor slow drift.
    """
    step = max(1, round(feature_px / 8))
    sigma = 0.3 * feature_px / step
    wide = _gaussian(2 * sigma)
    narrow = np.pad(_gaussian(sigma), (len(wide) - len(_gaussian(sigma))) // 2)
    # Energy of the two-dimensional difference, each part of which is separable.
    energy = (narrow @ narrow) ** 2 + (wide @ wide) ** 2 - 2 * (narrow @ wide) ** 2
    noise, core = _padded_noise(rng, shape_yx, [step, step], [wide, wide])
    fine = cv2.sepFilter2D(noise, cv2.CV_32F, narrow, narrow)
    fine -= cv2.sepFilter2D(noise, cv2.CV_32F, wide, wide)
    field = _resize_up(fine[core] / np.float32(np.sqrt(energy)), shape_yx, [step, step])
    if step > 1:  # the second derivative of an interpolated field shows its grid; half a step of blur does not
        field = cv2.GaussianBlur(field, (0, 0), step / 2)
    return field


def _gaussian(sigma: float) -> npt.NDArray[np.float64]:
    kernel: npt.NDArray[np.float64] = cv2.getGaussianKernel(2 * ceil(3 * sigma) + 1, sigma).ravel()
    return kernel


def _unit_energy(kernel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scale ``kernel`` so that filtering white noise keeps its variance."""
    return kernel / np.sqrt(kernel @ kernel)


def _padded_noise(
    rng: np.random.Generator,
    shape_yx: tuple[int, int],
    steps: list[int],
    kernels: list[npt.NDArray[np.float64]],
) -> tuple[FloatMap, tuple[slice, slice]]:
    """Return white noise on the coarse grid, and the part of it that no border effect reaches."""
    cells = [ceil(length / step) + 1 for length, step in zip(shape_yx, steps, strict=True)]
    pads = [len(kernel) // 2 for kernel in kernels]
    noise = rng.standard_normal((cells[0] + 2 * pads[0], cells[1] + 2 * pads[1]), dtype=np.float32)
    return noise, (slice(pads[0], pads[0] + cells[0]), slice(pads[1], pads[1] + cells[1]))


def _resize_up(coarse: FloatMap, shape_yx: tuple[int, int], steps: list[int]) -> FloatMap:
    rows, columns = shape_yx
    if steps == [1, 1]:
        return np.ascontiguousarray(coarse[:rows, :columns])
    size = (coarse.shape[1] * steps[1], coarse.shape[0] * steps[0])
    resized: FloatMap = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return resized[:rows, :columns]


def clouds(rng: np.random.Generator, shape_yx: tuple[int, int], depth: float) -> FloatMap:
    """Return a factor in 1 - ``depth`` .. 1: soft dark regions of 200 to 900 px, as good parts have."""
    density = 0.8 * smooth_field(rng, shape_yx, (800.0, 900.0))
    density += np.float32(0.6) * smooth_field(rng, shape_yx, (250.0, 350.0))
    density = np.clip((density - np.float32(0.1)) / np.float32(2.4), 0, 1)
    factor: FloatMap = 1 - np.float32(depth) * density * density * (3 - 2 * density)
    return factor


def riblet_layers(key: PartKey) -> Layers:
    """Draw the layers of a good shark-skin foil with horizontal tracks.

    The tracks wander by about 3 px and the ribs change their height by a few percent over hundreds of
    px; the foil is gently bent; the shade has dark clouds, streaks along the tracks and a fine grain.
    """
    shape = key.shape_yx
    shape_rng, shade_rng = key.rng("shape"), key.rng("shade")
    shift_px = np.float32(1.2) * smooth_field(shape_rng, shape, (600.0, 900.0))
    shift_px += np.float32(shape_rng.uniform(0, RIB_PERIOD_PX))
    relief = 1 + np.float32(0.04) * smooth_field(shape_rng, shape, (700.0, 700.0))
    base_um = np.float32(50) * smooth_field(shape_rng, shape, (3000.0, 3000.0))
    shade = clouds(shade_rng, shape, CLOUD_DEPTH)
    shade *= 1 + np.float32(0.02) * smooth_field(shade_rng, shape, (18.0, 900.0))
    shade *= 1 + np.float32(0.01) * smooth_field(shade_rng, shape, (2.5, 2.5))
    return {"base_um": base_um, "shade": shade, "shift_px": shift_px, "relief": relief}


def steel_layers(key: PartKey) -> Layers:
    """Draw the layers of a good steel plate: grains of several octaves and no regularity.

    The slopes fall towards the coarse grains, so that a dent is steeper than grains of its own size.
    """
    shape = key.shape_yx
    shape_rng, shade_rng = key.rng("shape"), key.rng("shade")
    base_um = np.zeros(shape, np.float32)
    grain = np.zeros(shape, np.float32)
    for feature_px, slope in GRAIN_SLOPES.items():
        # Band-passed grains of size f have a mean wavelength of about 2.1 f; height = slope / k.
        height_um = slope * 2.1 * feature_px * PIXEL_PITCH_UM / (2 * pi)
        base_um += np.float32(height_um) * band_field(shape_rng, shape, feature_px)
        grain += np.float32(0.03) * band_field(shade_rng, shape, feature_px)
    shade = np.clip(TRACK_MEAN + grain, 0.1, 0.9).astype(np.float32)
    shade *= clouds(shade_rng, shape, CLOUD_DEPTH / 2)
    return {"base_um": base_um, "shade": shade}


#: Material -> function that draws its layers.
LAYERS: Final[dict[str, Callable[[PartKey], Layers]]] = {"riblet": riblet_layers, "steel": steel_layers}


def rib_profile(position_px: FloatMap) -> FloatMap:
    """Return the shape of the ribs, -1 (valley) to 1 (top), at a position across the tracks."""
    wave = np.sin(position_px * np.float32(2 * pi / RIB_PERIOD_PX))
    wave *= np.float32(RIB_FLANK)
    profile: FloatMap = np.tanh(wave, out=wave)
    profile /= np.float32(np.tanh(RIB_FLANK))
    return profile


def compose(layers: Layers) -> Surface:
    """Put the layers together; ``base_um`` and ``shade`` are used up (changed in place)."""
    height_um, reflectance = layers["base_um"], layers["shade"]
    if "relief" in layers:
        for rows in row_strips(height_um.shape[0]):
            _add_ribs(height_um, reflectance, layers, rows)
    return Surface(height_um, reflectance)


def _add_ribs(height_um: FloatMap, reflectance: FloatMap, layers: Layers, rows: slice) -> None:
    relief = layers["relief"][rows]
    position_px = layers["shift_px"][rows] + np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    profile = rib_profile(position_px)
    height_um[rows] += RIB_HALF_HEIGHT_UM * relief * profile
    contrast = 1 - CONTRAST_OF_RELIEF * (1 - relief)
    reflectance[rows] *= TRACK_MEAN + TRACK_SWING * contrast * profile
