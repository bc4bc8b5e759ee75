"""How bright cells of a tile are against their surroundings: stains and shades that change no structure.

Features of pretrained networks hardly see a soft stain. Here a tile is reduced to the means of cells of 16 px, and
what counts is structure of some cells' size, by the difference of two Gaussians: neither the light of the whole image
nor single grains.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.methods.base import in_float32
from inspect_cli.methods.places import at_place
from inspect_cli.methods.whitening import principal_axes, whitened_square

CELL_PX: Final = 16
#: Standard deviations of the two Gaussians, in cells.
_FINE: Final = 1.0
_COARSE: Final = 4.0
_TRUNCATE: Final = 3.0
#: Least standard deviation of a cell's difference, of the unit range: on even material a tiny difference must not
#: score high.
_LEAST_DEVIATION: Final = 0.002
#: Added to the variance along each direction of colour, in units of the mean one.
_LEAST_SHARE: Final = 0.01


class Tone(nn.Module):
    """The usual differences of cells of good tiles, for each channel, and how far a tile's lie from them."""

    mean: Tensor
    whitening: Tensor
    place: Tensor
    fine: Tensor
    coarse: Tensor

    def __init__(self, channels: int, tile_px: int) -> None:
        super().__init__()
        side = -(-tile_px // CELL_PX)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels))
        self.register_buffer("place", torch.ones(1, 1, side, side))
        self.register_buffer("fine", _kernel(_FINE), persistent=False)
        self.register_buffer("coarse", _kernel(_COARSE), persistent=False)

    def differences(self, tiles: Tensor) -> Tensor:
        """Return each cell's mean, smoothed finely, less the same smoothed coarsely, (n, channels, h, w).

        Light that falls off evenly to one side is taken out first: at the borders it would remain.
        """
        height, width = tiles.shape[2:]
        pads = (0, -width % CELL_PX, 0, -height % CELL_PX)
        cells = functional.avg_pool2d(functional.pad(tiles, pads, mode="replicate").float(), CELL_PX)
        for axis in (2, 3):
            cells = cells - _slope(cells, axis)
        with in_float32(cells):  # what is left of two values that are nearly the same is lost in half precision
            return _blurred(cells, self.fine) - _blurred(cells, self.coarse)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the squared distance of each cell from what is usual, 1 on average on good tiles, (n, 1, h, w).

        Less than 1 where good tiles hardly differ: what is lost in rounding must not stand out.
        """
        score = self._distance(self.differences(tiles))
        return at_place(score, self.place)

    def _distance(self, differences: Tensor) -> Tensor:
        return whitened_square(differences - self.mean[:, None, None], self.whitening)

    @torch.no_grad()
    def learn(self, differences: Tensor) -> Tensor:
        """Learn from the differences of good tiles; return their scores, 1 on average at most."""
        self.mean.copy_(differences.mean(dim=(0, 2, 3)))
        variances, axes = principal_axes(differences)
        variances += _LEAST_SHARE * variances.mean() + _LEAST_DEVIATION**2
        self.whitening.copy_(axes / variances.sqrt())
        return self._distance(differences)


def _kernel(sigma: float) -> Tensor:
    reach = math.ceil(_TRUNCATE * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def _slope(cells: Tensor, axis: int) -> Tensor:
    """Return the straight line of best fit along an axis of (n, channels, h, w), 0 in the middle."""
    count = cells.shape[axis]
    at = torch.linspace(-1, 1, count, device=cells.device) if count > 1 else torch.zeros(1, device=cells.device)
    at = at.reshape([count if number == axis else 1 for number in range(4)])
    steep = (cells * at).mean(dim=(2, 3), keepdim=True) / at.square().mean().clamp(min=_LEAST_DEVIATION)
    return steep * at


def _blurred(cells: Tensor, kernel: Tensor) -> Tensor:
    """Return (n, channels, h, w) smoothed along both axes; the border is repeated."""
    reach, channels = len(kernel) // 2, cells.shape[1]
    rows = kernel.repeat(channels, 1)[:, None, :, None]
    padded = functional.pad(cells, (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, rows, groups=channels)
    return functional.conv2d(across, rows.movedim(2, 3), groups=channels)
