"""Autoencoder with stacked dilated convolutions: SSAE, table 1 and section 3.3."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from inspect_cli.methods.base import in_float32
from inspect_cli.methods.networks import check_tile

#: Image side over the side of the inner map: three halvings.
REDUCTION: Final = 8
#: Dilations of the convolutions that stand side by side in a stack.
DILATIONS: Final = (1, 2, 4, 8, 16, 32)


class DilatedStack(nn.Module):
    """SDC(1, 2, 4, 8, 16, 32): six dilated 5x5 convolutions side by side, concatenated, then one of 3x3.

    The outer taps of a dilated kernel that reach beyond a tile's whole inner map would multiply nothing but padding
    in training: no gradient ever moves them, and on a larger image their random weights would meet pixels. They are
    left out, which changes no value on tiles of the size trained for: with tiles of 128 px (inner map 16x16) the
    kernels are 5x5, 5x5, 5x5, 3x3, 1x1 and 1x1; from 520 px on all are 5x5.
    """

    def __init__(self, before: int, filters: int, inner_px: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            _convolution(before, filters, _kernel(dilation, inner_px), dilation) for dilation in DILATIONS
        )
        maps = filters * len(DILATIONS)
        self.normalise = nn.Sequential(nn.BatchNorm2d(maps), nn.ReLU(inplace=True))
        self.merge = nn.Sequential(*_layer(maps, maps))

    def forward(self, inner: Tensor) -> Tensor:
        """Return (n, 6 * filters, h, w) for an inner map (n, before, h, w)."""
        stacked = torch.cat([branch(inner) for branch in self.branches], dim=1)
        return self.merge(self.normalise(stacked))  # type: ignore[no-any-return]


class DilatedAutoencoder(nn.Module):
    """F of the paper: any image whose sides 8 divides, (n, channels, h, w) -> the same shape, values in (0, 1).

    Batch normalisation and ReLU follow every convolution but the last. In the paper's table the number of filters
    and the channels of the output disagree by a factor two in the encoder and in the last layer of each step of the
    decoder; here the encoder follows the filters, the decoder the outputs, so that channels fall with each step.

    Parameters
    ----------
    channels
        Image channels.
    tile_px
        Side of the largest tile trained on; see :class:`DilatedStack`.
    width
        Filters of the first layer, 64 in the paper; all others keep their proportion to it.
    stacks
        Dilated stacks between encoder and decoder, 4 in the paper.

    Raises
    ------
    RecipeError
        If the tile does not fit.
    """

    def __init__(self, channels: int, tile_px: int, width: int, stacks: int) -> None:
        super().__init__()
        check_tile(tile_px, REDUCTION)
        layers: list[nn.Module] = []
        before = channels
        for filters in (width, 2 * width, 4 * width):
            layers += [*_layer(before, filters), *_layer(filters, filters), nn.MaxPool2d(2)]
            before = filters
        for _ in range(stacks):
            layers.append(DilatedStack(before, width, tile_px // REDUCTION))
            before = width * len(DILATIONS)
        for filters in (4 * width, 2 * width, width):
            layers += [*_doubling(before, filters), *_layer(filters, filters), *_layer(filters, filters // 2)]
            before = filters // 2
        self.features = nn.Sequential(*layers)
        self.image = nn.Conv2d(before, channels, 1)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return F(tiles), float32; the last layer is in float32 under mixed precision too.

        bfloat16 has 8 bits of mantissa: an image in it would differ from its original by more than many a defect.
        """
        features = self.features(tiles)
        with in_float32(features):
            return torch.sigmoid(self.image(features.float()))


def _kernel(dilation: int, inner_px: int) -> int:
    """Return the side of the kernel, at most 5, whose taps reach inside an inner map of side ``inner_px``."""
    return 2 * min(2, (inner_px - 1) // dilation) + 1


def _convolution(before: int, after: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the map's size; batch normalisation, which follows, makes a bias idle."""
    return nn.Conv2d(before, after, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)


def _layer(before: int, after: int) -> tuple[nn.Module, ...]:
    return _convolution(before, after, 3), nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def _doubling(before: int, after: int) -> tuple[nn.Module, ...]:
    transposed = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=False)
    return transposed, nn.BatchNorm2d(after), nn.ReLU(inplace=True)
