"""Variational autoencoder: IND section 2.2, bottleneck of Table 3 with two innermost layers."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from inspect_cli.methods.base import Batch
from inspect_cli.methods.cae import CaeSettings, ConvolutionalAutoencoder
from inspect_cli.methods.copying import copy_error
from inspect_cli.methods.networks import LEAKY_SLOPE, initialise


class VaeSettings(CaeSettings):
    """Settings of the variational autoencoder."""

    kl_weight: float = Field(
        0.01,
        ge=0,
        description="Weight of the KL term, divided by the number of pixels: 2 is the evidence lower bound with unit "
        "noise. Large weights drive the code to the prior and the reconstruction to the mean grey value.",
    )


class VariationalAutoencoder(ConvolutionalAutoencoder):
    """Codes a tile as a normal distribution; trained on samples of it, scored with its mean."""

    name = "vae"
    Settings = VaeSettings

    def __init__(self, channels: int, tile_px: int, settings: VaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        size = self.bottleneck.size
        self.bottleneck.squeeze = nn.Sequential(nn.Flatten(), nn.Linear(size, self.hidden), nn.LeakyReLU(LEAKY_SLOPE))
        self.mean = nn.Linear(self.hidden, self.latent)  # lin21
        self.log_variance = nn.Linear(self.hidden, self.latent)  # lin22
        initialise(self)
        nn.init.zeros_(self.log_variance.weight)  # every code starts with unit variance
        self.kl_weight = settings.kl_weight

    def posterior(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x), each (n, latent), in float32."""
        hidden = self.bottleneck.encode(self.encoder(tiles))
        return self.mean(hidden).float(), self.log_variance(hidden).float()

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the mean of q(z|x), shape (n, latent)."""
        return self.posterior(tiles)[0]

    def loss(self, batch: Batch) -> Tensor:
        """Return the squared error of a sampled code inside the ROI plus the weighted KL term (IND eq. 4)."""
        mean, log_variance = self.posterior(batch.inputs)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        copy = self.decode(mean + (0.5 * log_variance).exp() * noise)  # IND eq. 6
        return copy_error(copy, batch) + self.kl_weight * kl_divergence(mean, log_variance) / batch.tiles[0].numel()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, I)), summed over the code and averaged over the batch (IND eq. 5).

    Both arguments are (n, latent).
    """
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1).mean()
