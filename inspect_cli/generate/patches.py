"""Stored patches of all maps of a part at one place <-> one array in the generator's range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask
from inspect_cli.errors import NoInputError
from inspect_cli.images import Part, open_map
from inspect_cli.images.values import Preprocess
from inspect_cli.recipe.schema import MapSpec
from inspect_cli.tiles.sampler import PatchSampler, PatchSource, SamplerImage
from inspect_cli.tiles.tiling import count_of_area
from inspect_cli.training.prepare import TRAIN_QUANTILES, learn_preprocess

#: Where the outer quantiles of the training pixels lie in [-1, 1], whose ends tanh reaches only in the limit.
REACH: Final = 0.9
#: Memory for the images of all maps together.
CACHE_MB: Final = 768
#: Step whose patches the span of a channel is learnt from; no training step has it.
_SPAN_STEP: Final = 2**33
_SPAN_PATCHES: Final = 256
_FEWEST_SPAN_PATCHES: Final = 16


@dataclass(frozen=True)
class Scale:
    """How one map's stored pixels become the generator's values and back.

    The values are those of the network input (unit range), stretched in each channel so that the span of the
    training pixels fills [-1, 1]: the components of a normal span 4 % to 50 % of their type, and what spans 4 % the
    generator would drown in its own noise.

    Parameters
    ----------
    preprocess
        The map's value range, fill and pixel type.
    middle, half
        Unit value at 0 and unit distance from there to 1, one a channel.
    """

    preprocess: Preprocess
    middle: tuple[float, ...]
    half: tuple[float, ...]

    @classmethod
    def learn(cls, source: PatchSource, preprocess: Preprocess) -> Self:
        """Return the scale at which the outer quantiles of ``source``'s pixels lie at +-:data:`REACH`."""
        count = count_of_area(_SPAN_PATCHES, source.tile_px, _FEWEST_SPAN_PATCHES)
        unit = preprocess.to_network(*source.batch(_SPAN_STEP, count))
        low, high = np.quantile(np.moveaxis(unit, 1, -1).reshape(-1, unit.shape[1]), TRAIN_QUANTILES, axis=0)
        half = np.maximum(high - low, 1e-6) / 2 / REACH
        return cls(preprocess, tuple(map(float, (low + high) / 2)), tuple(map(float, half)))

    def to_signal(self, patches: NDArray[Any], masks: Mask | None = None) -> NDArray[np.float32]:
        """Return stored patches (n, h, w[, channels]) as (n, channels, h, w), clipped to [-1, 1]."""
        unit = self.preprocess.to_network(patches, masks)
        signal: NDArray[np.float32] = (unit - _column(self.middle)) / _column(self.half)
        return signal.clip(-1.0, 1.0)

    def to_stored(self, signal: NDArray[np.float32]) -> NDArray[Any]:
        """Return (n, channels, h, w) in [-1, 1] as stored patches (n, h, w[, channels]) in the map's pixel type.

        Integers are rounded, and clipped to the limits of their type.
        """
        limits, dtype = self.preprocess.range, np.dtype(self.preprocess.dtype)
        unit = signal.astype(np.float64) * _column(self.half) + _column(self.middle)
        stored = np.moveaxis(limits.low + unit * (limits.high - limits.low), 1, -1)
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            stored = np.clip(np.rint(stored), info.min, info.max)
        else:
            stored = np.clip(stored, np.finfo(dtype).min, np.finfo(dtype).max)
        return np.ascontiguousarray(stored[..., 0] if stored.shape[-1] == 1 else stored).astype(dtype)


def _column(values: tuple[float, ...]) -> NDArray[np.float32]:
    """Return one value a channel, shaped to meet (n, channels, h, w)."""
    return np.asarray(values, np.float32)[:, None, None]


class RegisteredPatches:
    """Patches of several maps, cut at the same random places of the same parts.

    One sampler a map; the places follow from (seed, step), the parts' sizes and ROIs, which are equal for all maps
    of a part, and from whether images are held in memory, which is therefore decided for all maps together.
    Patches lie wholly inside the ROI: what is generated from them has none.

    Raises
    ------
    NoInputError
        If no patch lies wholly inside the ROI.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        rois: Mapping[str, Mask | None],
        maps: Sequence[str],
        tile_px: int,
        seed: int,
        cache_mb: int = CACHE_MB,
    ) -> None:
        each_mb = cache_mb // len(maps)
        fits = all(_stored_bytes(part.files[name] for part in parts) <= each_mb * 2**20 for name in maps)
        self.samplers: dict[str, PatchSampler] = {}
        try:
            for name in maps:
                images = (SamplerImage(part.files[name], rois[part.id]) for part in parts)
                self.samplers[name] = PatchSampler(images, tile_px, seed, 1.0, each_mb if fits else 0)
        except NoInputError as error:
            raise NoInputError(f"{error}; generated patches have no ROI, take smaller tiles") from error

    def batch(self, step: int, size: int, scales: Mapping[str, Scale]) -> NDArray[np.float32]:
        """Return the patches of a step, (size, channels of all maps, tile_px, tile_px) in [-1, 1]."""
        return np.concatenate(
            [scales[name].to_signal(*sampler.batch(step, size)) for name, sampler in self.samplers.items()], axis=1
        )

    def close(self) -> None:
        """Let go of open files."""
        for sampler in self.samplers.values():
            sampler.close()


def _stored_bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with open_map(path) as reader:
            total += math.prod(reader.header.shape) * reader.header.dtype.itemsize
    return total


def learn_scales(patches: RegisteredPatches, maps: Mapping[str, MapSpec]) -> dict[str, Scale]:
    """Return the scale of each map, learnt from its training patches."""
    return {
        name: Scale.learn(sampler, learn_preprocess(sampler, maps[name]))
        for name, sampler in patches.samplers.items()
    }
