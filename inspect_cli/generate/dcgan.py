"""Deep convolutional GAN: the two networks and their losses (MVT 3.3.3, after Radford et al. 2016).

Patches are (n, channels, side, side) with values in [-1, 1], the range of tanh. The generator starts at 4x4 and
doubles the side with each fractionally strided convolution; the discriminator mirrors it with strided ones.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.errors import RecipeError

#: Length of the noise vector z (Radford et al., section 4).
LATENT: Final = 100
#: Sides of a patch that halve down to the first map.
SIDES_PX: Final = (32, 64, 128, 256, 512, 1024)
#: Side of the first map.
START_PX: Final = 4
#: The widest layer has this many times the channels of the layer next to the image (Radford et al.: 1024 over 128).
MOST_CHANNELS_OVER_WIDTH: Final = 8
#: Slope of LeakyReLU and spread of the first weights (Radford et al., section 4).
LEAKY_SLOPE: Final = 0.2
WEIGHT_SPREAD: Final = 0.02

_KERNEL_PX: Final = 4  # a multiple of the stride, so that every pixel is reached by the same number of taps


def check_tile(tile_px: int) -> None:
    """Raise RecipeError unless patches of ``tile_px`` can be generated."""
    if tile_px not in SIDES_PX:
        fits = ", ".join(map(str, SIDES_PX))
        raise RecipeError(f"tiles.size_px {tile_px} does not fit the generator: sizes that fit are {fits}")


def level_channels(tile_px: int, width: int) -> list[int]:
    """Return the channels of the generator's maps from 4 px up to half the patch.

    >>> level_channels(64, 128)
    [1024, 512, 256, 128]
    """
    levels = (tile_px // START_PX).bit_length() - 1
    return [width * min(2**level, MOST_CHANNELS_OVER_WIDTH) for level in reversed(range(levels))]


class Generator(nn.Module):
    """Noise (n, 100) -> patches (n, channels, tile_px, tile_px) in (-1, 1).

    Batch normalisation and ReLU after every layer but the last, which ends in tanh; no fully connected hidden layer.

    Parameters
    ----------
    channels
        Channels of a patch: those of all maps of a part together.
    tile_px
        Side of a patch, one of :data:`SIDES_PX`.
    width
        Channels of the layer next to the image.
    """

    def __init__(self, channels: int, tile_px: int, width: int) -> None:
        super().__init__()
        levels = level_channels(tile_px, width)
        layers: list[nn.Module] = [nn.ConvTranspose2d(LATENT, levels[0], START_PX, bias=False)]
        for before, after in pairwise(levels):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), _doubling(before, after)]
        layers += [nn.BatchNorm2d(levels[-1]), nn.ReLU(), _doubling(levels[-1], channels, bias=True), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, noise: Tensor) -> Tensor:
        """Return the patches of ``noise``."""
        return self.layers(noise[:, :, None, None])  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Patches (n, channels, tile_px, tile_px) in [-1, 1] -> logits (n,); above 0 is held for real.

    Strided convolutions with LeakyReLU; batch normalisation in all layers but the first and the last.
    """

    def __init__(self, channels: int, tile_px: int, width: int) -> None:
        super().__init__()
        levels = level_channels(tile_px, width)[::-1]
        layers: list[nn.Module] = [_halving(channels, levels[0], bias=True), nn.LeakyReLU(LEAKY_SLOPE)]
        for before, after in pairwise(levels):
            layers += [_halving(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(LEAKY_SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(levels[-1], 1, START_PX))
        initialise(self)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the logit of "real" for each patch."""
        return self.layers(patches).flatten()  # type: ignore[no-any-return]


def _doubling(before: int, after: int, bias: bool = False) -> nn.Module:
    return nn.ConvTranspose2d(before, after, _KERNEL_PX, 2, 1, bias=bias)


def _halving(before: int, after: int, bias: bool = False) -> nn.Module:
    return nn.Conv2d(before, after, _KERNEL_PX, 2, 1, bias=bias)


def initialise(network: nn.Module) -> None:
    """Draw the weights from N(0, 0.02), those of batch normalisation from N(1, 0.02); biases become 0."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, WEIGHT_SPREAD)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, WEIGHT_SPREAD)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def discriminator_loss(real: Tensor, fake: Tensor, real_label: float = 1.0) -> Tensor:
    """Return J(D) = -1/2 E log D(x) - 1/2 E log(1 - D(G(z))), MVT equation 3, from logits (n,).

    With ``real_label`` below 1 the cross-entropy of the real patches is taken to that label instead of 1 (one-sided
    label smoothing, Salimans et al. 2016, section 3.4).
    """
    held_real = real_label * functional.softplus(-real) + (1 - real_label) * functional.softplus(real)
    return 0.5 * (held_real.mean() + functional.softplus(fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Return J(G) = -1/2 E log D(G(z)), the non-saturating game of MVT equation 6, from logits (n,)."""
    return 0.5 * functional.softplus(-fake).mean()
