"""Autoencoder with kernel density on its codes: MVT section 3.5.1, KD-CAE."""

from __future__ import annotations

import math
from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from inspect_cli.methods.base import MethodSettings
from inspect_cli.methods.copying import CopyingDetector, squared_residual
from inspect_cli.methods.density import FEWEST_CODES, KernelDensity
from inspect_cli.methods.networks import Architecture, check_tile, decoder, encoder, initialise

#: Six layers each way, 32 up to 128 filters, 128x128 down to 8x8; what lies between follows the industrial network.
ARCHITECTURE: Final = Architecture(
    channels=(32, 32, 64, 64, 128, 128),
    strides=(1, 2, 2, 2, 2, 1),
    tail=(128, 64, 64, 32, 32),
    tail_scales=(1, 2, 2, 2, 2),
)
#: Tiles that the codes of the good patches are computed from at a time.
_FIT_BATCH: Final = 32
#: Good patches that the usual residual is taken over.
_RESIDUAL_PATCHES: Final = 64
#: Residuals below this root mean square are rounding errors.
_LEAST_RESIDUAL: Final = 1e-6
#: Spread of the log-density below which good codes count as equally likely.
_LEAST_SPREAD: Final = 1e-3


class KdCaeSettings(MethodSettings):
    """Settings of the autoencoder with kernel density."""

    components: int = Field(
        16, ge=1, le=256, description="Principal components of the code that the density is taken over."
    )
    points: int = Field(
        512,
        ge=8,
        le=2048,
        description="Good patches whose codes make the density; as many others give its directions.",
    )
    bandwidth: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Width of the density's kernels, in standard deviations of the good codes along each component. "
        "Empty: Scott's rule, `n ** (-1 / (d + 4))` with n codes in d components.",
    )
    density_weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of a tile's unlikely code against its residual; 0 for the residual alone.",
    )


class KernelDensityAutoencoder(CopyingDetector):
    """Twelve layers of 32 to 128 filters; a pixel's score adds up its residual and how unlikely its tile's code is.

    The residual is divided by its mean over good patches. The second term is the same at all pixels of a tile: the
    number of standard deviations by which the negative log-density of its code exceeds the median of good patches.
    Activations are leaky and the copy ends in a sigmoid as in IND's networks, where this paper has ReLU.
    """

    name = "kd-cae"
    Settings = KdCaeSettings

    def __init__(self, channels: int, tile_px: int, settings: KdCaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        check_tile(tile_px, ARCHITECTURE.reduction)
        self.encoder = encoder(channels, ARCHITECTURE)
        self.decoder = decoder(channels, ARCHITECTURE)
        initialise(self)
        size = ARCHITECTURE.channels[-1] * (tile_px // ARCHITECTURE.reduction) ** 2
        self.density = KernelDensity(size, settings.points, settings.components, settings.bandwidth)
        self.density_weight = settings.density_weight
        self.fit_patches = 2 * settings.points
        self.usual_residual: Tensor
        self.usual_rarity: Tensor
        self.rarity_spread: Tensor
        # Root mean square: a root keeps small means apart in half precision.
        self.register_buffer("usual_residual", torch.ones(()))
        # Infinite until there is a density: no code is rarer, and the score is the residual alone.
        self.register_buffer("usual_rarity", torch.full((), math.inf))
        self.register_buffer("rarity_spread", torch.ones(()))

    def reconstruct(self, tiles: Tensor) -> Tensor:
        """Return the copy, values in (0, 1)."""
        return self.decoder(self.encoder(tiles))  # type: ignore[no-any-return]

    @torch.no_grad()
    def fit(self, tiles: Tensor) -> None:
        """Learn the density of the codes of good ``tiles``, and the usual size of both terms.

        A code's own kernel would make it look likely, so the usual density of good codes is that without their own.
        Of fewer than four tiles there is no density: the score stays the residual alone.
        """
        some = tiles[:_RESIDUAL_PATCHES]
        residual = squared_residual(self.reconstruct(some), some)
        self.usual_residual.copy_(residual.mean().sqrt().clamp(min=_LEAST_RESIDUAL))
        if len(tiles) < FEWEST_CODES:
            return
        self.density.fit(
            torch.cat([self.encoder(some).float().flatten(1) for some in torch.split(tiles, _FIT_BATCH)])
        )
        rarity = -self.density.left_out_log_density()
        self.usual_rarity.copy_(rarity.median())
        self.rarity_spread.copy_(rarity.std().clamp(min=_LEAST_SPREAD))

    def rarity(self, maps: Tensor) -> Tensor:
        """Return how unlikely codes (n, 128, h, w) are, (n,): standard deviations above the usual, from 0."""
        found = -self.density.log_density(maps.float().flatten(1))
        return ((found - self.usual_rarity) / self.rarity_spread).clamp(min=0)

    def score(self, tiles: Tensor) -> Tensor:
        """Return the residual over its usual size plus the weighted rarity of the tile's code, (n, side, side)."""
        maps = self.encoder(tiles)
        residual = squared_residual(self.decoder(maps), tiles) / self.usual_residual.square()
        return residual + self.density_weight * self.rarity(maps)[:, None, None]
