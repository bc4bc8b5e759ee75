"""Building blocks of the autoencoders: encoder, bottleneck and decoder of IND, appendix Tables 2 and 3, and CMP.

All kernels are 3x3 and every layer is followed by a LeakyReLU, except the last one (sigmoid). Halving is a
convolution of stride 2, doubling its transpose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.errors import RecipeError

#: Slope of LeakyReLU; the paper does not give one, this is the usual value.
LEAKY_SLOPE: Final = 0.01
#: A copy starts at least this far from black and white, where a sigmoid's gradient has not vanished.
_LEAST_MEAN: Final = 0.02
#: Side of the block that pays for so many output channels (measured with sixteen lanes; no worse with eight).
_BLOCK: Final = {1: 4, 2: 2, 3: 2, 4: 2}


class Architecture(NamedTuple):
    """Channels after each encoder layer and its stride; the decoder mirrors them.

    ``tail`` are the decoder's output channels after each layer but the last, which yields the image;
    ``hidden`` (r) and ``latent`` (n_z) are the bottleneck's usual widths.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    tail: tuple[int, ...]
    tail_scales: tuple[int, ...]
    hidden: int = 1024
    latent: int = 100

    @property
    def reduction(self) -> int:
        """Image side over code side."""
        return math.prod(self.strides)


#: IND Table 2, industrial column.
INDUSTRIAL: Final = Architecture(
    channels=(16, 32, 64, 64, 64, 16),
    strides=(1, 2, 2, 2, 2, 1),
    tail=(64, 64, 64, 32, 16),
    tail_scales=(1, 2, 2, 2, 2),
)
#: IND Table 2, synthetic column with d = 16: conv4 goes from W/4 to W/16.
SYNTHETIC: Final = Architecture(
    channels=(16, 32, 64, 64, 16), strides=(1, 2, 2, 4, 1), tail=(64, 64, 32, 16), tail_scales=(1, 4, 2, 2)
)
#: CMP Table 1: the synthetic network with d = 8; the paper's table does not say conv4's stride clearly.
MNIST: Final = Architecture(
    channels=(16, 32, 64, 64, 16),
    strides=(1, 2, 2, 2, 1),
    tail=(64, 64, 32, 16),
    tail_scales=(1, 2, 2, 2),
    hidden=100,
    latent=20,
)
#: CMP Table 2.
CIFAR10: Final = Architecture(
    channels=(8, 16, 32, 16), strides=(1, 2, 2, 2), tail=(32, 16, 8), tail_scales=(2, 2, 2), hidden=100, latent=20
)
ARCHITECTURES: Final = {"industrial": INDUSTRIAL, "synthetic": SYNTHETIC, "mnist": MNIST, "cifar10": CIFAR10}


def check_tile(tile_px: int, step: int) -> None:
    """Raise RecipeError unless the tile divides down to a code of 2x2 or more, of which a pixel is ``step`` px."""
    if tile_px % step or tile_px < 2 * step:
        below = max(2 * step, tile_px // step * step)
        raise RecipeError(
            f"tiles.size_px {tile_px} does not fit this network: sizes that fit are multiples of {step} from "
            f"{2 * step} on, such as {below} or {below + step}"
        )


def encoder(channels: int, architecture: Architecture) -> nn.Sequential:
    """Return the convolutions from the image to (n, channels[-1], tile / reduction, tile / reduction)."""
    layers: list[nn.Module] = []
    before = channels
    for after, stride in zip(architecture.channels, architecture.strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.LeakyReLU(LEAKY_SLOPE)]
        before = after
    return nn.Sequential(*layers)


def decoder(channels: int, architecture: Architecture) -> nn.Sequential:
    """Return the mirrored layers from the code's map back to the image, values in (0, 1)."""
    layers: list[nn.Module] = []
    before = architecture.channels[-1]
    for after, scale in zip(architecture.tail, architecture.tail_scales, strict=True):
        layers += [_upscale(before, after, scale), nn.LeakyReLU(LEAKY_SLOPE)]
        before = after
    return nn.Sequential(*layers, BlockConv2d(before, channels), nn.Sigmoid())


class BlockConv2d(nn.Conv2d):
    """A 3x3 convolution to few channels that yields a block of pixels at once: same weights, same result, faster.

    Processors compute eight or sixteen output channels in the time of one. So the pixels of a block become channels
    of a convolution of the block's stride, whose kernel holds the 3x3 weights once for each of them, at their place.
    It pays in training and in graphs for other runtimes; torch alone scores no faster so.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1)
        self._block = _BLOCK.get(after, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Return (n, channels, height, width); sides that the block does not divide are computed pixel by pixel."""
        block = self._block
        pays = self.training or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if block == 1 or not pays or values.shape[2] % block or values.shape[3] % block:
            return super().forward(values)
        assert self.bias is not None
        around = functional.pad(self.weight, (block - 1,) * 4)
        places = around.unfold(2, block + 2, 1).unfold(3, block + 2, 1).flip(2, 3)  # of the window: weights go back
        weight = places.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        found = functional.conv2d(values, weight, self.bias.repeat_interleave(block**2), block, 1)
        return functional.pixel_shuffle(found, block)


def _upscale(before: int, after: int, scale: int) -> nn.Module:
    if scale == 1:
        return nn.Conv2d(before, after, 3, 1, 1)
    return nn.ConvTranspose2d(before, after, 3, scale, 1, output_padding=scale - 1)


class Bottleneck(nn.Module):
    """Fully connected squeeze to ``latent`` values and back (IND Table 3: r = 1024, n_z = 100)."""

    def __init__(self, code_shape: Sequence[int], hidden: int, latent: int) -> None:
        super().__init__()
        self.code_shape = tuple(code_shape)
        self.size = size = self.code_shape[0] * self.code_shape[1] * self.code_shape[2]
        self.squeeze = nn.Sequential(
            nn.Flatten(), nn.Linear(size, hidden), nn.LeakyReLU(LEAKY_SLOPE), nn.Linear(hidden, latent)
        )
        self.expand = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(hidden, size),
            nn.LeakyReLU(LEAKY_SLOPE),
        )

    def encode(self, code_map: Tensor) -> Tensor:
        """Return the latent code (n, latent)."""
        return self.squeeze(code_map)  # type: ignore[no-any-return]

    def decode(self, latent: Tensor) -> Tensor:
        """Return the code map (n, *code_shape)."""
        return self.expand(latent).unflatten(1, self.code_shape)  # type: ignore[no-any-return]


def initialise(network: nn.Module) -> None:
    """Give every layer weights that keep the signal's size through LeakyReLU (He et al. 2015).

    With torch's own defaults the signal shrinks from layer to layer, and an autoencoder this deep spends
    thousands of steps on the plateau where it copies nothing but the mean grey value. A transposed
    convolution of stride s reaches each output pixel from 9 / s^2 of its taps.
    """
    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            taps = layer.in_channels * 9 / layer.stride[0] ** 2
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (1 + LEAKY_SLOPE**2) / taps))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, LEAKY_SLOPE, nonlinearity="leaky_relu")
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_at_mean(layers: nn.Module, tiles: Tensor) -> None:
    """Set the bias of the last convolution, before a sigmoid, so that copies start at the mean of good ``tiles``.

    ``tiles`` are (n, channels, height, width), 0 to 1.

    Without it the first hundreds of steps go into finding the mean, and on dark images some networks never come
    back from all-zero copies: the gradient of a sigmoid vanishes there.
    """
    mean = tiles.float().mean(dim=(0, 2, 3)).clamp(_LEAST_MEAN, 1 - _LEAST_MEAN)
    output = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)][-1]
    assert output.bias is not None
    output.bias.copy_(torch.logit(mean))
