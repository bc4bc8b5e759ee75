"""Seeded defects of the physical materials, each with its exact mask.

A defect is a small patch of *changes* to the layers of a surface (see ``surface.py``), placed somewhere
in the image. Sizes are physical: a small image is a small window on the same material, and only defects
that would not fit into it are drawn smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from inspect_cli.arrays import Mask
from inspect_cli.sample.part import Box, PartKey, bounding_box
from inspect_cli.sample.surface import PIXEL_PITCH_UM, RIB_PERIOD_PX, Layers, smooth_field

Floats = npt.NDArray[np.floating[Any]]
Changes = dict[str, Floats]

# A pixel is defective where a change reaches this share of the instance's largest change.
SIGNIFICANT_SHARE: Final = 0.1
PX_PER_INSTANCE: Final = 400_000  # one instance more for each such area, up to MOST_INSTANCES
MOST_INSTANCES: Final = 6
FEWEST_INSTANCES: Final = 3  # where the image has room for them
FLATTENED_RELIEF: Final = 0.15
# (1 - t^2)^2 has its steepest slope, 1.54, at t = 1 / sqrt(3).
BUMP_STEEPEST: Final = 1.54

#: How a change is combined with a layer, and the value that changes nothing.
COMBINE: Final[dict[str, tuple[np.ufunc, float]]] = {
    "base_um": (np.add, 0.0),
    "shift_px": (np.add, 0.0),
    "relief": (np.multiply, 1.0),
    "shade": (np.multiply, 1.0),
}


@dataclass(frozen=True)
class Instance:
    """One defect: its changes and mask (patches of one shape) with the patch's corner in the image."""

    kind: str
    y_px: int
    x_px: int
    changes: Layers
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """The patch's place in the image, (rows, columns)."""
        rows, columns = self.mask.shape
        return slice(self.y_px, self.y_px + rows), slice(self.x_px, self.x_px + columns)

    @property
    def box(self) -> Box:
        """The box around the mask, in the image's frame."""
        return bounding_box(self.kind, self.mask, self.y_px, self.x_px)


def draw_dent(rng: np.random.Generator, side_px: int) -> Changes:
    """Draw a smooth depression of radius 15 to 60 px and slope 0.18 to 0.4: geometry alone."""
    radius_px = _size(rng, 15, 55, side_px / 8)
    stretch = rng.uniform(0.85, 1.18)
    radius = _blob(rng, (radius_px * stretch, radius_px / stretch), rng.uniform(0, pi), 0.05)
    depth_um = rng.uniform(0.18, 0.4) * radius_px * PIXEL_PITCH_UM / BUMP_STEEPEST
    return {"base_um": -np.float32(depth_um) * _bump(radius)}


def draw_stain(rng: np.random.Generator, side_px: int) -> Changes:
    """Draw an irregular blob, 20 to 120 px across, with edges of 2 px: reflectance alone."""
    radius_px = _size(rng, 11, 48, side_px / 8)
    stretch = rng.uniform(0.8, 1.25)
    radius = _blob(rng, (radius_px * stretch, radius_px / stretch), rng.uniform(0, pi), 0.16)
    inside_px = (1 - radius) * radius_px
    cover = _smoothstep(inside_px / 2)
    rim = 0.8 + 0.2 * np.exp(-((inside_px / (0.15 * radius_px + 2)) ** 2))  # a drop dries to a dark rim
    strength = -rng.uniform(0.4, 0.6) if rng.random() < 0.7 else rng.uniform(0.25, 0.32)
    return {"shade": 1 + strength * cover * rim}


def draw_scratch(rng: np.random.Generator, side_px: int) -> Changes:
    """Draw a thin bright groove: 2 to 5 px wide, 100 to 800 px long, slightly bent, across the tracks."""
    length_px = _size(rng, 100, 800, 0.6 * side_px)
    angle = rng.uniform(pi / 9, pi - pi / 9)  # at least 20 degrees from the tracks
    width_px = rng.uniform(2, 5)
    along, across_px = _stroke(length_px, angle, rng.uniform(-0.06, 0.06) * length_px, 0.0)
    groove = _bump(across_px / (width_px / 2)) * _smoothstep((1 - np.abs(along)) * 8)
    groove *= 0.8 + 0.2 * np.sin(along * rng.uniform(6, 14) + rng.uniform(0, 2 * pi))  # uneven pressure
    depth_um = rng.uniform(0.25, 0.4) * width_px / 2 * PIXEL_PITCH_UM
    return {
        "base_um": -depth_um * groove,
        "shade": 1 + rng.uniform(0.25, 0.4) * np.sqrt(groove),
    }


def draw_flattened_ribs(rng: np.random.Generator, side_px: int) -> Changes:
    """Draw an elongated soft region where the ribs keep 15 % of their height."""
    length_px = _size(rng, 150, 800, 0.5 * side_px)
    width_px = length_px * rng.uniform(0.2, 0.35)
    radius = _blob(rng, (width_px / 2, length_px / 2), rng.uniform(-0.5, 0.5), 0.06)
    flat = _smoothstep((1 - radius) * width_px / 2 / 16)
    return {"relief": 1 - (1 - FLATTENED_RELIEF) * flat}


def draw_track_shift(rng: np.random.Generator, side_px: int) -> Changes:
    """Draw an elongated region inside which the tracks are displaced by about half a period."""
    length_px = _size(rng, 200, 900, 0.6 * side_px)
    width_px = length_px * rng.uniform(0.35, 0.5)
    radius = _blob(rng, (width_px / 2, length_px / 2), rng.uniform(-0.2, 0.2), 0.06)
    inside = _smoothstep((1 - radius) * width_px / 2 / 20)
    return {"shift_px": rng.choice([-1, 1]) * rng.uniform(0.45, 0.55) * RIB_PERIOD_PX * inside}


def draw_contamination(rng: np.random.Generator, side_px: int) -> Changes:
    """Draw a dark particle or fibre that lies on the surface."""
    return _draw_particle(rng, side_px) if rng.random() < 0.6 else _draw_fibre(rng, side_px)


def _draw_particle(rng: np.random.Generator, side_px: int) -> Changes:
    radius_px = _size(rng, 6, 18, side_px / 8)
    stretch = rng.uniform(0.75, 1.33)
    radius = _blob(rng, (radius_px * stretch, radius_px / stretch), rng.uniform(0, pi), 0.14)
    height_um = rng.uniform(0.25, 0.45) * radius_px * PIXEL_PITCH_UM / BUMP_STEEPEST
    cover = _smoothstep((1 - radius) * radius_px / 2)
    mottle = 1 + 0.15 * smooth_field(rng, (radius.shape[0], radius.shape[1]), (6.0, 6.0))
    return {
        "base_um": height_um * _bump(radius),
        "shade": 1 - np.clip(rng.uniform(0.5, 0.75) * mottle, 0, 0.95) * cover,
    }


def _draw_fibre(rng: np.random.Generator, side_px: int) -> Changes:
    length_px = _size(rng, 60, 220, 0.5 * side_px)
    width_px = rng.uniform(3, 5)
    bow_px, wave_px = rng.uniform(-0.15, 0.15) * length_px, rng.uniform(-0.06, 0.06) * length_px
    along, across_px = _stroke(length_px, rng.uniform(0, pi), bow_px, wave_px)
    thread = _bump(across_px / (width_px / 2)) * _smoothstep((1 - np.abs(along)) * length_px / 4)
    height_um = rng.uniform(0.25, 0.4) * width_px / 2 * PIXEL_PITCH_UM
    return {
        "base_um": height_um * thread,
        "shade": 1 - rng.uniform(0.45, 0.65) * np.sqrt(thread),
    }


#: Kind -> function that draws the changes of one instance that fits a window of ``side_px``.
DEFECTS: Final[dict[str, Callable[[np.random.Generator, int], Changes]]] = {
    "dent": draw_dent,
    "stain": draw_stain,
    "scratch": draw_scratch,
    "flattened_ribs": draw_flattened_ribs,
    "track_shift": draw_track_shift,
    "contamination": draw_contamination,
}


def draw_instances(key: PartKey, kind: str) -> list[Instance]:
    """Draw all defects of one part: 3 to 6 at full size, fewer but at least one in a small image.

    Their patches do not overlap; one for which no free place is found is left out.
    """
    rng = key.rng("defects")
    rows, columns = key.shape_yx
    most = int(np.clip(rows * columns // PX_PER_INSTANCE, 1, MOST_INSTANCES))
    placed: list[Instance] = []
    for _ in range(int(rng.integers(min(FEWEST_INSTANCES, most), most + 1))):
        drawn = DEFECTS[kind](rng, min(rows, columns))
        changes = {name: change.astype(np.float32) for name, change in drawn.items()}
        instance = _place(rng, kind, changes, key.shape_yx, placed)
        if instance is not None:
            placed.append(instance)
    return placed


def apply(layers: Layers, instances: list[Instance]) -> None:
    """Change the layers in place; a layer that the material does not have is passed over."""
    for instance in instances:
        for name in layers.keys() & instance.changes.keys():
            window = layers[name][instance.window]
            COMBINE[name][0](window, instance.changes[name], out=window)


def union_mask(shape_yx: tuple[int, int], instances: list[Instance]) -> Mask:
    """Return the mask of all instances together, in the image's frame."""
    mask = np.zeros(shape_yx, np.bool_)
    for instance in instances:
        mask[instance.window] |= instance.mask
    return mask


def significant(changes: Layers) -> Mask:
    """Return where any change reaches :data:`SIGNIFICANT_SHARE` of its own largest value."""
    sizes = [np.abs(change - COMBINE[name][1]) for name, change in changes.items()]
    mask: Mask = np.logical_or.reduce([size >= SIGNIFICANT_SHARE * size.max() for size in sizes])
    return mask


def _place(
    rng: np.random.Generator, kind: str, changes: Layers, shape_yx: tuple[int, int], placed: list[Instance]
) -> Instance | None:
    mask = significant(changes)
    for _ in range(50):
        y_px, x_px = (
            int(rng.integers(0, max(1, room - size + 1))) for room, size in zip(shape_yx, mask.shape, strict=True)
        )
        instance = Instance(kind, y_px, x_px, changes, mask)
        if not any(_overlap(instance, other) for other in placed):
            return instance
    return None


def _overlap(one: Instance, other: Instance) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one.window, other.window, strict=True))


def _size(rng: np.random.Generator, low_px: float, high_px: float, limit_px: float) -> float:
    """Draw a length between the bounds, small ones more often, and never above ``limit_px``."""
    low_px, high_px = min(low_px, limit_px), min(high_px, limit_px)
    return float(np.exp(rng.uniform(np.log(low_px), np.log(high_px))))


def _grid(half_height_px: float, half_width_px: float) -> tuple[Floats, Floats]:
    """Return y and x, in px from the centre, of a patch with the given half sides."""
    rows, columns = int(np.ceil(half_height_px)), int(np.ceil(half_width_px))
    y, x = np.mgrid[-rows : rows + 1, -columns : columns + 1].astype(np.float32)
    return y, x


def _blob(rng: np.random.Generator, radii_yx_px: tuple[float, float], angle: float, roughness: float) -> Floats:
    """Return the distance from the centre as a share of an irregular outline's: 1 on the outline.

    The outline is an ellipse, turned by ``angle`` and modulated by ten harmonics of falling size; towards
    the centre the modulation fades, so that a bump drawn over it has no crease there.
    """
    radius_y_px, radius_x_px = radii_yx_px
    largest = 1 + 4 * roughness
    y, x = _grid(
        largest * float(np.hypot(radius_x_px * sin(angle), radius_y_px * cos(angle))) + 2,
        largest * float(np.hypot(radius_x_px * cos(angle), radius_y_px * sin(angle))) + 2,
    )
    along = (x * cos(angle) + y * sin(angle)) / radius_x_px
    across = (y * cos(angle) - x * sin(angle)) / radius_y_px
    theta = np.arctan2(across, along)
    outline = np.ones_like(theta)
    for harmonic in range(2, 12):
        size = roughness * rng.normal() * (2 / harmonic) ** 1.2
        outline += np.float32(size) * np.cos(harmonic * theta + np.float32(rng.uniform(0, 2 * pi)))
    radius: Floats = np.hypot(along, across)
    modulation = np.clip(outline, 0.4, largest) - 1
    return radius / (1 + modulation * _smoothstep(radius))


def _stroke(length_px: float, angle: float, bow_px: float, wave_px: float) -> tuple[Floats, Floats]:
    """Return, for a curved line, the position along it (-1..1) and the distance from it in px."""
    half = length_px / 2
    slack = abs(bow_px) + abs(wave_px) + 8
    y, x = _grid(half * abs(sin(angle)) + slack, half * abs(cos(angle)) + slack)
    along = (x * cos(angle) + y * sin(angle)) / half
    across_px = y * cos(angle) - x * sin(angle)
    curve_px = bow_px * (1 - along * along) + wave_px * np.sin(2 * pi * along)
    slope = (-2 * bow_px * along + 2 * pi * wave_px * np.cos(2 * pi * along)) / half
    return along, np.abs(across_px - curve_px) / np.sqrt(1 + slope * slope)


def _bump(radius: Floats) -> Floats:
    """Return (1 - r^2)^2 inside r = 1 and 0 outside: 1 at the centre, smooth everywhere."""
    inside: Floats = np.maximum(1 - radius * radius, 0)
    return inside * inside


def _smoothstep(position: Floats) -> Floats:
    """Return a smooth step: 0 below 0, 1 above 1."""
    clipped: Floats = np.clip(position, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)
