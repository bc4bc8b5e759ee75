"""Supervised classifier of tiles: MVT sections 3.3.1 and 3.4, for those who have labelled defects."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.errors import RecipeError, UsageError
from inspect_cli.methods.base import Batch, Detector, MethodSettings, paced
from inspect_cli.methods.networks import initialise

_BLOCKS: Final = 5
_FILTERS: Final = 16
_REDUCTION: Final = 2**_BLOCKS
#: RMSprop's usual step size, 1e-3, over the usual peak of the loop.
_PACE: Final = 0.5
#: Forgetting factor of RMSprop's mean square, the usual value outside torch.
_SMOOTHING: Final = 0.9


class CnnSettings(MethodSettings):
    """Settings of the supervised classifier."""

    hidden: int = Field(128, ge=1, description="Width of the hidden layer; the paper does not give one.")


class SupervisedCnn(Detector):
    """Five convolutions of 16 filters with max-pooling, a hidden layer, and one probability of a defect a tile.

    It learns from good parts and from labelled defects (``inspect train --defects``). All pixels of a tile get its
    probability and overlapping tiles are averaged, so ``tiles.stride_px`` decides how fine the map is. The paper's
    images are 200x200; every tile of 32 px and more fits.
    """

    name = "cnn"
    Settings = CnnSettings
    supervised = True

    def __init__(self, channels: int, tile_px: int, settings: CnnSettings) -> None:
        super().__init__(channels, tile_px, settings)
        side = tile_px // _REDUCTION
        if side < 1:
            raise RecipeError(f"tiles.size_px {tile_px} does not fit this network: sizes from {_REDUCTION} on fit")
        layers: list[nn.Module] = []
        for before, after in pairwise([channels, *[_FILTERS] * _BLOCKS]):
            layers += [nn.Conv2d(before, after, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classify = nn.Sequential(
            nn.Linear(_FILTERS * side**2, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, 1)
        )
        initialise(self)

    def logits(self, tiles: Tensor) -> Tensor:
        """Return the log-odds of a defect, (n,), float32."""
        return self.classify(self.features(tiles)).float()[:, 0]  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> Tensor:
        """Return the binary cross-entropy of the patches' labels.

        Raises
        ------
        UsageError
            If the patches have no labels.
        """
        if batch.defective is None:
            raise UsageError("method cnn learns from labelled defects too: name them, inspect train --defects FOLDER")
        return functional.binary_cross_entropy_with_logits(self.logits(batch.tiles), batch.defective)

    def score(self, tiles: Tensor) -> Tensor:
        """Return the probability of a defect, 0 to 1, the same at all pixels of a tile, (n, side, side)."""
        probability = torch.sigmoid(self.logits(tiles))
        return probability[:, None, None].expand(-1, *tiles.shape[2:]).contiguous()

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return RMSprop (MVT section 3.4.6) at half the loop's step size."""
        return [torch.optim.RMSprop(paced(self.parameters(), _PACE, learning_rate), alpha=_SMOOTHING)]
