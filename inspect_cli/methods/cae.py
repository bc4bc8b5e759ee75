"""Convolutional autoencoder: IND section 2.1, networks of the appendix (Tables 2 and 3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from inspect_cli.methods.base import Detector, MethodSettings, masked_mean
from inspect_cli.methods.networks import ARCHITECTURES, Bottleneck, check_tile, decoder, encoder, initialise


class CaeSettings(MethodSettings):
    """Settings of the convolutional autoencoder."""

    architecture: Literal["industrial", "synthetic"] = Field(
        "industrial", description="Network of IND Table 2: industrial or synthetic column."
    )
    hidden: int = Field(1024, ge=1, description="Width r of the bottleneck's outer layers.")
    latent: int = Field(100, ge=1, description="Width n_z of the code.")


class ConvolutionalAutoencoder(Detector):
    """Trained to copy good tiles through a narrow code; what it cannot copy is anomalous."""

    name = "cae"
    Settings = CaeSettings

    def __init__(self, channels: int, tile_px: int, settings: CaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        architecture = ARCHITECTURES[settings.architecture]
        check_tile(tile_px, architecture)
        side = tile_px // architecture.reduction
        self.encoder = encoder(channels, architecture)
        self.bottleneck = Bottleneck((architecture.channels[-1], side, side), settings.hidden, settings.latent)
        self.decoder = decoder(channels, architecture)
        initialise(self)

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the latent code E(x), shape (n, latent)."""
        return self.bottleneck.encode(self.encoder(tiles))

    def decode(self, latent: Tensor) -> Tensor:
        """Return D(z), values in (0, 1), shape (n, channels, tile_px, tile_px)."""
        return self.decoder(self.bottleneck.decode(latent))  # type: ignore[no-any-return]

    def reconstruct(self, tiles: Tensor) -> Tensor:
        """Return D(E(x)), values in (0, 1) (IND eq. 2)."""
        return self.decode(self.encode(tiles))

    def loss(self, tiles: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean squared error inside the ROI (IND eq. 3)."""
        return masked_mean((self.reconstruct(tiles).float() - tiles) ** 2, mask)

    def score(self, tiles: Tensor) -> Tensor:
        """Return the residual map (x - D(E(x)))^2 (IND eq. 1), averaged over channels."""
        return ((self.reconstruct(tiles).float() - tiles) ** 2).mean(dim=1)
