"""Convolutional autoencoder: IND section 2.1, networks of the appendix (Tables 2 and 3)."""

from __future__ import annotations

from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from inspect_cli.methods.base import MethodSettings, paced
from inspect_cli.methods.copying import CopyingDetector
from inspect_cli.methods.networks import (
    ARCHITECTURES,
    Bottleneck,
    check_tile,
    decoder,
    encoder,
    initialise,
)

#: Step size over the loop's. At the loop's own the industrial network stays on the plateau of the mean grey value for
#: hundreds of steps with some seeds (riblet, 450 steps: 76 to 95 % explained; at half of it 94 to 95 %).
PACES: Final = {"industrial": 0.5}


class CaeSettings(MethodSettings):
    """Settings of the convolutional autoencoder."""

    architecture: Literal["industrial", "synthetic", "mnist", "cifar10"] = Field(
        "industrial",
        description="Network: `industrial` or `synthetic` column of IND Table 2, or the smaller ones of CMP "
        "(`mnist`, `cifar10`) for tiles of 16 px and more.",
    )
    hidden: int | None = Field(
        None, ge=1, description="Width r of the bottleneck's outer layers. Empty: the architecture's, 1024 or 100."
    )
    latent: int | None = Field(None, ge=1, description="Width n_z of the code. Empty: the architecture's, 100 or 20.")


class ConvolutionalAutoencoder(CopyingDetector):
    """Trained to copy good tiles through a narrow code; what it cannot copy is anomalous."""

    name = "cae"
    Settings = CaeSettings

    def __init__(self, channels: int, tile_px: int, settings: CaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        architecture = ARCHITECTURES[settings.architecture]
        check_tile(tile_px, architecture.reduction)
        side = tile_px // architecture.reduction
        self.encoder = encoder(channels, architecture)
        self.hidden = settings.hidden or architecture.hidden
        self.latent = settings.latent or architecture.latent
        self.bottleneck = Bottleneck((architecture.channels[-1], side, side), self.hidden, self.latent)
        self.decoder = decoder(channels, architecture)
        self.pace = PACES.get(settings.architecture, 1.0)
        initialise(self)

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return Adam, at the architecture's pace."""
        return [torch.optim.Adam(paced(self.parameters(), self.pace, learning_rate))]

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the latent code E(x), shape (n, latent)."""
        return self.bottleneck.encode(self.encoder(tiles))

    def decode(self, latent: Tensor) -> Tensor:
        """Return D(z), values in (0, 1), shape (n, channels, tile_px, tile_px)."""
        return self.decoder(self.bottleneck.decode(latent))  # type: ignore[no-any-return]

    def reconstruct(self, tiles: Tensor) -> Tensor:
        """Return D(E(x)), values in (0, 1) (IND eq. 2)."""
        return self.decode(self.encode(tiles))
