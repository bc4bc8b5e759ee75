"""Autoencoder over the features of a pretrained network instead of grey values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.methods.base import Batch, MethodSettings, masked_mean
from inspect_cli.methods.efficientnet import BLOCK_COUNT, STEP_PX, OnFeatures, at_size, images_in, padded
from inspect_cli.methods.memory import kept_features, squared_distance
from inspect_cli.methods.networks import LEAKY_SLOPE
from inspect_cli.methods.places import at_place, usual_places
from inspect_cli.methods.whitening import principal_axes, whitened_square

#: Standard deviations below this are those of features that never fire.
_LEAST_DEVIATION: Final = 1e-3
#: Standard deviations a feature may lie from its mean: one wild feature must not drown all others.
_MOST: Final = 8.0
_FIT_PATCHES: Final = 1600
#: Tiles whose features are computed at once.
FIT_BATCH: Final = 8
#: Features that the memory is chosen from; more take time and change little.
_MOST_VECTORS: Final = 30_000
#: The usual distance of material that is all alike: a feature hardly farther must not stand out.
_LEAST_DISTANCE: Final = 0.05
#: Added to the variance along each direction, in units of a feature's own: directions that hardly vary on good
#: patches count, but not without bounds.
_LEAST_VARIANCE: Final = 0.01


class FeatureAeSettings(MethodSettings):
    """Settings of the autoencoder over features."""

    depths: tuple[int, ...] = Field(
        (8, 10),
        min_length=1,
        description="Blocks of EfficientNet-Lite0, 0 to 15, whose features are used: 2 at a quarter of the tile's "
        "size, 4 at an eighth, 8 and 10 at a sixteenth.",
    )
    code: int = Field(16, ge=1, description="Channels of the latent code.")
    noise: float = Field(
        0.5, ge=0, allow_inf_nan=False, description="Standard deviation of the noise on the features in training."
    )
    rarity_weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of the Mahalanobis distance against the error of the reconstruction.",
    )
    memory: int = Field(1500, ge=1, le=50_000, description="Features of each block in the memory bank.")
    distance_weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of the distance to the nearest of the good features that are kept; 0 for none.",
    )

    @field_validator("depths")
    @classmethod
    def _exist(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 <= depth < BLOCK_COUNT for depth in depths) or list(depths) != sorted(set(depths)):
            raise ValueError(f"give different blocks from 0 to {BLOCK_COUNT - 1}, ascending")
        return depths


class _Depth(nn.Module):
    """The features of one depth: how they usually are, and an autoencoder of 3x3 convolutions that copies them.

    The buffers are statistics of good patches: mean and standard deviation of each feature, the directions in which
    the standardised features vary (columns of a matrix, scaled so that good patches have variance 1 along each),
    some features as they are, the usual size of the three parts of the score, and at which places of a tile good
    patches score higher than elsewhere: along its border, and at edges of parts that always lie alike.
    """

    mean: Tensor
    deviation: Tensor
    whitening: Tensor
    usual_error: Tensor
    usual_rarity: Tensor
    memory: Tensor
    usual_distance: Tensor
    place: Tensor

    def __init__(self, channels: int, code: int, memory: int, side: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(channels, 2 * code, 3, padding=1, padding_mode="replicate")
        self.narrow = nn.Conv2d(2 * code, code, 1)
        self.wide = nn.Conv2d(code, 2 * code, 3, padding=1, padding_mode="replicate")
        self.decoder = nn.Conv2d(2 * code, channels, 1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("whitening", torch.eye(channels))
        self.register_buffer("usual_error", torch.ones(()))
        self.register_buffer("usual_rarity", torch.ones(()))
        self.register_buffer("memory", torch.zeros(memory, channels))
        self.register_buffer("usual_distance", torch.ones(()))
        self.register_buffer("place", torch.ones(1, 1, side, side))

    def forward(self, values: Tensor) -> Tensor:
        """Return the copy of standardised features (n, channels, h, w)."""
        code = self.narrow(functional.leaky_relu(self.encoder(values), LEAKY_SLOPE))
        return cast(Tensor, self.decoder(functional.leaky_relu(self.wide(code), LEAKY_SLOPE)))

    def standardised(self, values: Tensor) -> Tensor:
        """Return features (n, channels, h, w) in standard deviations from their mean, -8 to 8."""
        return ((values - self.mean[:, None, None]) / self.deviation[:, None, None]).clamp(-_MOST, _MOST)

    def error(self, values: Tensor) -> Tensor:
        """Return the squared error of the copy, (n, 1, h, w), mean over features."""
        return cast(Tensor, (self(values) - values).square().mean(dim=1, keepdim=True))

    def rarity(self, values: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance from the mean over the number of features, (n, 1, h, w)."""
        return whitened_square(values, self.whitening)

    def distance(self, values: Tensor) -> Tensor:
        """Return the squared distance to the nearest kept feature over the number of features, (n, 1, h, w)."""
        return squared_distance(values, self.memory) / values.shape[1]

    def learn_scale(self, values: Tensor) -> None:
        """Take mean and standard deviation from the features of good patches, (n, channels, h, w)."""
        self.mean.copy_(values.mean(dim=(0, 2, 3)))
        self.deviation.copy_(values.std(dim=(0, 2, 3)).clamp(min=_LEAST_DEVIATION))

    def learn_usual(self, values: Tensor) -> None:
        """Take directions and usual sizes from standardised features of good patches, (n, channels, h, w)."""
        variances, axes = principal_axes(values)
        self.whitening.copy_(axes / (variances + _LEAST_VARIANCE).sqrt())
        for usual, found in ((self.usual_error, self.error(values)), (self.usual_rarity, self.rarity(values))):
            usual.copy_(found.mean().clamp(min=_LEAST_DEVIATION))

    def learn_memory(self, values: Tensor) -> None:
        """Keep features of good patches (n, channels, h, w); the usual distance is of the last quarter to the rest.

        With a single patch its own features are the memory and the distance.
        """
        generator = torch.Generator().manual_seed(0)
        first = max(1, 3 * len(values) // 4)
        self.memory.copy_(kept_features(values[:first], len(self.memory), _MOST_VECTORS, generator))
        others = values[first:] if first < len(values) else values
        distances = torch.cat([self.distance(some) for some in torch.split(others, FIT_BATCH)])
        self.usual_distance.copy_(distances.mean().clamp(min=_LEAST_DISTANCE))

    def learn_place(self, values: Tensor, rarity_weight: float, distance_weight: float) -> None:
        """Take from features of good patches how high the score goes at each place, over how high it goes in all.

        Never below 1, for a place where good patches score low is not made more sensitive, nor far above it.
        """
        self.place.fill_(1)
        scores = torch.cat([self.score(v, rarity_weight, distance_weight) for v in torch.split(values, FIT_BATCH)])
        self.place.copy_(usual_places(scores))

    def score(self, values: Tensor, rarity_weight: float, distance_weight: float) -> Tensor:
        """Return error, rarity and distance, each in units of the usual one, as a weighted mean, (n, 1, h, w).

        Features of a tile are divided by what is usual at their place in it; those of a whole image of another size
        are not.
        """
        total: Tensor = self.error(values) / self.usual_error
        if rarity_weight:
            total = total + rarity_weight * self.rarity(values) / self.usual_rarity
        if distance_weight:
            total = total + distance_weight * self.distance(values) / self.usual_distance
        return at_place(total / (1 + rarity_weight + distance_weight), self.place)


class FeatureAutoencoder(OnFeatures):
    """Features of EfficientNet-Lite0 after some blocks, standardised, each block's put through a narrow code.

    A pixel's score is the mean over blocks of three measures: the reconstruction's squared error, the Mahalanobis
    distance from the features of good patches, and the distance from the nearest feature in the memory bank. Each is
    divided by its usual value on good patches, and their sum by what is usual at that position of a tile. The
    pretrained weights are stored with the model.
    """

    name = "feature-ae"
    Settings = FeatureAeSettings
    fit_patches = _FIT_PATCHES

    def __init__(self, channels: int, tile_px: int, settings: FeatureAeSettings) -> None:
        super().__init__(channels, tile_px, settings, settings.depths)
        shapes = zip(self.features.channels, self.features.sides(tile_px), strict=True)
        self.depths = nn.ModuleList(
            _Depth(images_in(channels) * size, settings.code, settings.memory, side) for size, side in shapes
        )
        self._noise = settings.noise
        self._weights = (settings.rarity_weight, settings.distance_weight)

    def known(self) -> list[_Depth]:
        """Return what is known of each depth."""
        return [cast(_Depth, depth) for depth in self.depths]

    @torch.no_grad()
    def begin(self, tiles: Tensor) -> None:
        """Load the pretrained weights and standardise the features by those of good tiles.

        Raises
        ------
        ModelError
            If the package with the weights is not installed.
        """
        super().begin(tiles)
        for depth, values in zip(self.known(), self.features.of_tiles(tiles), strict=True):
            depth.learn_scale(values)

    @torch.no_grad()
    def standardised(self, tiles: Tensor) -> list[Tensor]:
        """Return the features of tiles at each depth, (n, channels, h, w), in standard deviations from their mean."""
        return [depth.standardised(v) for depth, v in zip(self.known(), self.features.of_tiles(tiles), strict=True)]

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the copies, averaged over depths, inside the ROI."""
        return self.copy_loss(self.standardised(batch.inputs), counting(batch))

    def copy_loss(self, features: Sequence[Tensor], where: Tensor | None) -> Tensor:
        """Return the mean squared error of the copies of ``features``, averaged over depths.

        ``where`` (n, 1, h, w), of the size of the padded tiles, is 1 on the pixels that count; None for all.
        """
        losses = []
        for depth, values in zip(self.known(), features, strict=True):
            noised = values + self._noise * torch.randn_like(values) if self.training else values
            error = (depth(noised).float() - values).square().mean(dim=1, keepdim=True)
            losses.append(masked_mean(error, reduced(where, error.shape[2:])))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def fit(self, tiles: Tensor) -> None:
        """Learn how features vary on good ``tiles``, keep some, and the usual size of each part of the score."""
        self.learn(self.features_of_many(tiles))

    def features_of_many(self, tiles: Tensor) -> list[Tensor]:
        """Return the standardised features of many tiles by depth, (n, channels, h, w), some tiles at a time."""
        parts = [self.standardised(some) for some in torch.split(tiles, FIT_BATCH)]
        return [torch.cat(values) for values in zip(*parts, strict=True)]

    def learn(self, features: Sequence[Tensor]) -> None:
        """Learn from standardised features of good tiles what :meth:`fit` does."""
        for depth, known in zip(self.known(), features, strict=True):
            depth.learn_usual(known)
            depth.learn_memory(known)
            depth.learn_place(known, *self._weights)

    def score(self, tiles: Tensor) -> Tensor:
        """Return how unusual the features are, 1 where they are as usual, (n, height, width)."""
        return self.unusual(self.standardised(tiles), tiles.shape[2:])[:, 0]

    def unusual(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return the mean over depths of error, rarity and distance of standardised features, (n, 1, *size)."""
        pairs = zip(self.known(), features, strict=True)
        maps = [at_size(depth.score(values, *self._weights), size) for depth, values in pairs]
        return torch.stack(maps).mean(dim=0)

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return Adam on the autoencoders alone; the pretrained network stays as it is."""
        return [torch.optim.Adam(self.depths.parameters(), lr=learning_rate)]


def counting(batch: Batch) -> Tensor | None:
    """Return the pixels (n, 1, h, w) that count of padded tiles: those of the ROI in the tiles; None for all."""
    roi = batch.roi
    if roi is None and not any(side % STEP_PX for side in batch.tiles.shape[2:]):
        return None
    return padded(torch.ones_like(batch.tiles[:, :1]) if roi is None else roi, STEP_PX)


def reduced(mask: Tensor | None, size: Sequence[int]) -> Tensor | None:
    """Return a mask (n, 1, side, side) at the size of features: the share of pixels; None stays None."""
    return None if mask is None else functional.adaptive_avg_pool2d(mask, (size[0], size[1]))
