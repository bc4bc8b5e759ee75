"""Autoencoder with noise injection: MVT section 3.5.2, NI-CAE."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from pydantic import Field
from torch import Tensor, nn

from inspect_cli.corruptions import Corruption
from inspect_cli.corruptions.injection import GaussianInjection
from inspect_cli.methods.base import MethodSettings
from inspect_cli.methods.copying import CopyingDetector
from inspect_cli.methods.networks import LEAKY_SLOPE, check_tile, initialise

#: Filters of the first encoder layer over those of each (paper: 128, 64, 16, 8, 4).
_DIVISORS: Final = (1, 2, 8, 16, 32)
_LEAST_FILTERS: Final = 4
_REDUCTION: Final = 2 ** len(_DIVISORS)


class NiCaeSettings(MethodSettings):
    """Settings of the noise-injected autoencoder."""

    width: int = Field(
        128,
        ge=4,
        description="Filters of the first layer. The other four have 1/2, 1/8, 1/16 and 1/32 of it, at least 4 each. "
        "128 is the paper's; on a CPU 32 trains about eight times as fast.",
    )
    latent: int = Field(512, ge=1, description="Width of the dense code.")
    noise_variance: float = Field(
        0.001, ge=0, allow_inf_nan=False, description="Variance of the noise, the material's range at 0 to 1."
    )
    noise_share: float = Field(
        0.1, ge=0, le=1, description="Share of the training patches that get noise; 0 trains without."
    )


class NoiseInjectedAutoencoder(CopyingDetector):
    """Five convolutions with max-pooling, a dense code, and back; a tenth of its training patches is noisy.

    The copy is compared with the patch without the noise: the paper leaves open with which, and a copy of the noise
    would be no use. The paper's images are grey; here the channels of a map are kept. The paper stops
    after 5 epochs without improvement; ``training.patience`` counts validations. Activations are leaky and the copy
    ends in a sigmoid as in IND's networks, where this paper has ReLU and a linear output.
    """

    name = "ni-cae"
    Settings = NiCaeSettings

    def __init__(self, channels: int, tile_px: int, settings: NiCaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        check_tile(tile_px, _REDUCTION)
        widths = [max(_LEAST_FILTERS, settings.width // divisor) for divisor in _DIVISORS]
        code_shape = (widths[-1], tile_px // _REDUCTION, tile_px // _REDUCTION)
        size = widths[-1] * (tile_px // _REDUCTION) ** 2
        self.encoder = _encoder(channels, widths)
        self.squeeze = nn.Sequential(nn.Flatten(), nn.Linear(size, settings.latent), nn.LeakyReLU(LEAKY_SLOPE))
        self.expand = nn.Sequential(
            nn.Linear(settings.latent, size), nn.LeakyReLU(LEAKY_SLOPE), nn.Unflatten(1, code_shape)
        )
        self.decoder = _decoder(channels, widths)
        initialise(self)
        self._corruption = GaussianInjection(settings.noise_variance, settings.noise_share)

    def corruption(self) -> Corruption:
        """Return the noise injection."""
        return self._corruption

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the dense code, (n, latent)."""
        return self.squeeze(self.encoder(tiles))  # type: ignore[no-any-return]

    def reconstruct(self, tiles: Tensor) -> Tensor:
        """Return the copy, values in (0, 1)."""
        return self.decoder(self.expand(self.encode(tiles)))  # type: ignore[no-any-return]


def _encoder(channels: int, widths: list[int]) -> nn.Sequential:
    """Return the layers from the image to (n, last width, side/32, side/32)."""
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, *widths]):
        layers += [nn.Conv2d(before, after, 3, 1, 1), nn.LeakyReLU(LEAKY_SLOPE), nn.MaxPool2d(2)]
    return nn.Sequential(*layers)


def _decoder(channels: int, widths: list[int]) -> nn.Sequential:
    """Return the encoder's layers in reverse, doubling where it pools, and the last 1x1 convolution."""
    layers: list[nn.Module] = []
    for before, after in pairwise([widths[-1], *reversed(widths)]):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, 1, 1), nn.LeakyReLU(LEAKY_SLOPE)]
    return nn.Sequential(*layers, nn.Conv2d(widths[0], channels, 1), nn.Sigmoid())
