"""Regions of a patch replaced by deformed, missing or foreign content: SSAE section 3.2 and figure 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np

from inspect_cli.corruptions.base import Corrupted, Patches

Kind = Literal["elastic", "cutout", "swap"]

#: Side of the smallest region: below this a blob with a soft edge has no inside.
MIN_SIDE_PX: Final = 9
#: Grain of the displacement field (standard deviation of the Gaussian it is smoothed with).
GRAIN_PX: Final = (1.5, 6.0)
#: Root mean square of the displacement over its grain; above about 1 neighbours change places.
STRENGTH: Final = (0.7, 1.6)
#: Short over long axis of a region.
ASPECT: Final = (0.3, 1.0)
#: Width of a region's soft edge over half its side.
EDGE: Final = (0.1, 0.4)


class Box(NamedTuple):
    """A square whose middle lies in a patch, and which may hang over its border: upper left corner and odd side."""

    y: int
    x: int
    side: int

    def inside(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the rows and columns that lie in a patch, counted from the patch's corner and from the square's."""
        top, left = max(self.y, 0), max(self.x, 0)
        bottom, right = min(self.y + self.side, height), min(self.x + self.side, width)
        in_square = slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x)
        return (slice(top, bottom), slice(left, right)), in_square


@dataclass(frozen=True)
class PatchCorruption:
    """Replaces random regions through soft masks: ``x_hat = M * content + (1 - M) * x``.

    Attributes
    ----------
    kind
        What comes into a region: ``elastic``, its own content after an elastic deformation; ``cutout``, zeros;
        ``swap``, what another patch of the batch (the same one, if it is alone) shows at another place.
    brightness
        Largest change of brightness, in standard deviations of the patch's own pixels (each channel its own), so
        that it is as visible on faint material as on strong; not for ``cutout``.
    regions
        Fewest and most regions in a patch.
    size
        Smallest and largest side of the square around a region over the patch's shorter side; the logarithm is
        uniform, so that small regions are as frequent as large ones.
    """

    kind: Kind = "elastic"
    brightness: float = 1.0
    regions: tuple[int, int] = (1, 3)
    size: tuple[float, float] = (0.12, 0.6)

    def __call__(self, patches: Patches, rng: np.random.Generator) -> Corrupted:
        """Return damaged copies of ``patches`` (n, channels, height, width) and M (n, 1, height, width).

        Pixels where M is 0 are as they were, bit for bit. Where regions overlap, M is the share of the pixel that
        is not the original's. Content is kept between 0 and 1, or the patch's own extremes where they lie outside.
        """
        damaged = patches.copy()
        changed = np.zeros_like(patches[:, :1])
        for index, patch in enumerate(damaged):
            for _ in range(int(rng.integers(self.regions[0], self.regions[1] + 1))):
                box = _random_box(patch.shape[1], patch.shape[2], self.size, rng)
                (rows, columns), square = box.inside(patch.shape[1], patch.shape[2])
                mask = region_mask(box.side, rng)[square]
                content = self._content(patches, index, box, rng)[:, *square]
                patch[:, rows, columns] = mask * content + (1 - mask) * patch[:, rows, columns]
                changed[index, 0, rows, columns] += mask * (1 - changed[index, 0, rows, columns])
        return Corrupted(damaged, changed)

    def _content(self, patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:
        """Return what comes into ``box`` of a patch: (channels, side, side)."""
        patch = patches[index]
        if self.kind == "cutout":
            return np.zeros((len(patch), box.side, box.side), np.float32)
        if self.kind == "elastic":
            content = elastic_deformation(patch, box, rng)
        else:
            content = _elsewhere(patches, index, box, rng)
        if self.brightness:
            shift = np.float32(rng.uniform(-self.brightness, self.brightness))
            content = content + shift * patch.std(axis=(1, 2), keepdims=True)
        return np.clip(content, min(0.0, float(patch.min())), max(1.0, float(patch.max())))


def elastic_deformation(patch: Patches, box: Box, rng: np.random.Generator) -> Patches:
    """Return the content of ``box`` in ``patch`` (channels, height, width) after an elastic deformation.

    A field of uniform random displacements is convolved with a Gaussian and scaled (Simard et al. 2003); grain and
    strength are drawn anew each time. Content comes from beyond the box, mirrored at the patch's border, where
    the field points there.

    Returns
    -------
    (channels, side, side), cubic interpolation, since a linear one would give deformed noise away by its blur.
    """
    grain = float(rng.uniform(*GRAIN_PX))
    field = rng.uniform(-1.0, 1.0, (box.side, box.side, 2)).astype(np.float32)
    field = cv2.GaussianBlur(field, (0, 0), grain, borderType=cv2.BORDER_REFLECT)
    field *= grain * float(rng.uniform(*STRENGTH)) / max(float(np.sqrt((field**2).mean())), 1e-6)
    rows, columns = np.mgrid[box.y : box.y + box.side, box.x : box.x + box.side].astype(np.float32)
    from_y, from_x = rows + field[..., 0], columns + field[..., 1]
    planes = [cv2.remap(plane, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101) for plane in patch]
    return np.stack(planes)


def region_mask(side: int, rng: np.random.Generator) -> Patches:
    """Return the shape of a region: a turned ellipse with a wavy, soft edge, (side, side), values 0 to 1.

    It is 1 in the middle and 0 on the border of the square, whose side is odd.
    """
    ticks = (np.arange(side, dtype=np.float32) - (side - 1) / 2) * np.float32(2 / (side - 1))
    angle = float(rng.uniform(0, np.pi))
    along = ticks * np.cos(angle) + ticks[:, None] * np.sin(angle)
    across = (ticks[:, None] * np.cos(angle) - ticks * np.sin(angle)) / float(rng.uniform(*ASPECT))
    waves = rng.uniform(-1.0, 1.0, (side, side)).astype(np.float32)
    waves = cv2.GaussianBlur(waves, (0, 0), side / 8, borderType=cv2.BORDER_REFLECT)
    waves /= max(float(np.abs(waves).max()), 1e-6)
    inside = 0.75 + 0.25 * waves - np.hypot(along, across)
    slope = np.clip(inside / float(rng.uniform(*EDGE)), 0.0, 1.0)
    return np.asarray(slope**2 * (3 - 2 * slope), np.float32)


def _random_box(height: int, width: int, size: tuple[float, float], rng: np.random.Generator) -> Box:
    """Draw a square around any pixel of a patch."""
    share = float(np.exp(rng.uniform(*np.log(size))))
    side = max(MIN_SIDE_PX, (round(share * min(height, width)) - 1) | 1)
    return Box(int(rng.integers(height)) - side // 2, int(rng.integers(width)) - side // 2, side)


def _elsewhere(patches: Patches, index: int, box: Box, rng: np.random.Generator) -> Patches:
    """Return a square of the box's size from another patch, or from another place if there is but one."""
    count, _, height, width = patches.shape
    other = (index + int(rng.integers(1, count))) % count if count > 1 else index
    places = height - box.side + 1, width - box.side + 1
    y, x = int(rng.integers(places[0])), int(rng.integers(places[1]))
    if other == index and (y, x) == (box.y, box.x):
        y, x = (y + places[0] // 2) % places[0], (x + places[1] // 2) % places[1]
    return np.asarray(patches[other][:, y : y + box.side, x : x + box.side])
