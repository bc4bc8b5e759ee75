"""PatchCore (Roth et al., CVPR 2022) on EfficientNet-Lite0: the distance to the nearest feature of good material.

None of the five papers: it is what others would take instead, so that it can be compared within the same tool.
"""

from __future__ import annotations

from typing import Final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from inspect_cli.methods.base import Batch, MethodSettings, masked_mean
from inspect_cli.methods.efficientnet import OnFeatures, at_size, images_in
from inspect_cli.methods.memory import kept_features, squared_distance

#: Blocks whose features make a vector: details at an eighth of the tile's size, and what lies around them.
_DEPTHS: Final = (4, 10)
#: Features are averaged over so many neighbours each way (section 3.1 of the paper: 3).
_NEIGHBOURHOOD: Final = 3
#: Squared distances up to this share of a feature's squared length are errors of rounding: engines differ in them.
_ROUNDING: Final = 1e-5
_FIT_BATCH: Final = 32
#: Vectors that the memory is chosen from; more take time and change little.
_MOST_VECTORS: Final = 60_000


class PatchCoreSettings(MethodSettings):
    """Settings of the nearest neighbour in a memory of features."""

    memory: int = Field(2000, ge=1, le=50_000, description="Features of good material in the memory bank.")
    patches: int = Field(
        384,
        ge=1,
        le=4096,
        description="Good patches that the memory bank is chosen from; fewer above 128 px (the same area in all), "
        "at least 64.",
    )
    greedy: bool = Field(True, description="Greedy coreset (k-center); otherwise random features.")


class PatchCore(OnFeatures):
    """Features of two depths, each averaged over 3x3 neighbours, joined at an eighth of the tile's size.

    A pixel's score is the distance of its feature to the nearest one in the memory bank, a greedy coreset of good
    features: each next one is the farthest from those chosen. Nothing is trained, so a budget is not used up.

    This is a PatchCore of our own for a CPU: features of EfficientNet-Lite0, blocks 4 and 10, instead of a
    WideResNet50, and a part's score is its highest pixel, not weighted anew. Those of anomalib and pyimgano were not
    run.
    """

    name = "patchcore"
    Settings = PatchCoreSettings
    trains = False

    def __init__(self, channels: int, tile_px: int, settings: PatchCoreSettings) -> None:
        super().__init__(channels, tile_px, settings, _DEPTHS)
        size = images_in(channels) * sum(self.features.channels)
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(settings.memory, size))
        self.fit_patches = settings.patches
        self._greedy = settings.greedy

    @torch.no_grad()
    def _vectors(self, tiles: Tensor) -> Tensor:
        """Return the joined features (n, channels, h, w)."""
        found = [self._averaged(values) for values in self.features.of_tiles(tiles)]
        size = found[0].shape[2:]
        return torch.cat([found[0], *(functional.interpolate(v, size, mode="bilinear") for v in found[1:])], dim=1)

    def _averaged(self, values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, _NEIGHBOURHOOD, 1, _NEIGHBOURHOOD // 2, count_include_pad=False)

    @torch.no_grad()
    def fit(self, tiles: Tensor) -> None:
        """Choose the memory from the features of good ``tiles``."""
        maps = [self._vectors(some) for some in torch.split(tiles, _FIT_BATCH)]
        generator = torch.Generator().manual_seed(0)
        self.memory.copy_(kept_features(torch.cat(maps), len(self.memory), _MOST_VECTORS, generator, self._greedy))

    def score(self, tiles: Tensor) -> Tensor:
        """Return the distance to the nearest good feature, (n, height, width)."""
        values = self._vectors(tiles)
        nearest = squared_distance(values, self.memory, _ROUNDING).sqrt()
        return at_size(nearest, tiles.shape[2:])[:, 0]

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean distance of good patches inside the ROI; nothing is trained to lower it."""
        return masked_mean(self.score(batch.tiles)[:, None], batch.roi)
