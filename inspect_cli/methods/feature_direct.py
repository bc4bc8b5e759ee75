"""What DIR does to pixels, done to features: a small network names damaged places by the features they have.

These marks are sharp, but know only the artificial damage that they were trained on. How unusual the features are
holds for damage of any kind, but blurs. The score is the product of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.corruptions import Corruption
from inspect_cli.corruptions.scattered import ScatteredDefects
from inspect_cli.methods.base import Batch, masked_mean
from inspect_cli.methods.efficientnet import STEP_PX, at_size, padded
from inspect_cli.methods.feature_ae import (
    FIT_BATCH,
    FeatureAeSettings,
    FeatureAutoencoder,
    counting,
    reduced,
)
from inspect_cli.methods.networks import LEAKY_SLOPE
from inspect_cli.methods.places import at_place, usual_places
from inspect_cli.methods.tone import CELL_PX, Tone

#: Noise on the features that the marks are learnt from, in standard deviations.
_NOISE: Final = 0.15
#: Weight of the marks' cross-entropy beside the error of the copies.
_MARKS_WEIGHT: Final = 4.0
#: Probability that is added to a mark: damage of a kind that nobody made up is unusual all the same.
_FLOOR: Final = 0.1
#: Features whose surroundings are damaged, up to so many features away, are not copied in training.
_APART: Final = 2


class FeatureDirectSettings(FeatureAeSettings):
    """Settings of direct marks on features."""

    marks_width: int = Field(64, ge=1, description="Channels inside the network that marks damaged places.")
    tone_weight: float = Field(
        0.125,
        ge=0,
        allow_inf_nan=False,
        description="Weight of how unusual the brightness of cells of 16 px is, compared with their surroundings.",
    )
    most_steps: int = Field(
        1000,
        ge=1,
        description="Steps at which a budget in time ends: longer training overfits to the artificial defects.",
    )


class _Marks(nn.Module):
    """Features of all depths at twice the finest size, and a network of one 3x3 convolution that marks damage.

    It is kept small and sees little around a feature: larger ones learn what made-up damage looks like.
    """

    place: Tensor

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, width, 1)
        self.around = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.mark = nn.Conv2d(width, 1, 1)
        self.register_buffer("place", torch.ones(1, 1, side, side))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the logit of damage, (n, 1, h, w)."""
        size = [2 * max(values.shape[axis] for values in features) for axis in (2, 3)]
        values = torch.cat(
            [functional.interpolate(v, size, mode="bilinear", align_corners=False) for v in features], dim=1
        )
        if self.training:
            values = values + _NOISE * torch.randn_like(values)
        inner = functional.leaky_relu(self.narrow(values), LEAKY_SLOPE)
        return cast(Tensor, self.mark(functional.leaky_relu(self.around(inner), LEAKY_SLOPE)))

    def evidence(self, features: list[Tensor]) -> Tensor:
        """Return 1 where nothing speaks for damage, up to 1 + 1 / ``_FLOOR``, (n, 1, h, w).

        Where in a tile good patches are marked too, it is divided by how much they are.
        """
        return at_place(1 + torch.sigmoid(self(features).float()) / _FLOOR, self.place)


class FeatureDirect(FeatureAutoencoder):
    """`feature-ae`, and a small network trained to mark scattered artificial defects by the features they change.

    A pixel's score is that of `feature-ae` times 1 + 10 p, where p is the predicted probability of damage. What is
    unusual in the brightness of cells of 16 px is added with a weight, since stains may change no structure.
    """

    name = "feature-direct"
    Settings = FeatureDirectSettings

    def __init__(self, channels: int, tile_px: int, settings: FeatureDirectSettings) -> None:
        super().__init__(channels, tile_px, settings)
        count = sum(depth.mean.numel() for depth in self.known())
        self.marks = _Marks(count, settings.marks_width, 2 * max(self.features.sides(tile_px)))
        self.tone = Tone(channels, tile_px)
        self._tone_weight = settings.tone_weight
        self.most_steps = settings.most_steps

    def corruption(self) -> Corruption:
        """Return scattered defects."""
        return ScatteredDefects()

    def loss(self, batch: Batch) -> Tensor:
        """Return the marks' cross-entropy inside the ROI, and the error of the copies where nothing is damaged."""
        features = self.standardised(batch.inputs)
        logits = self.marks(features).float()
        changed = torch.zeros_like(batch.inputs[:, :1]) if batch.changed is None else batch.changed
        changed, inside = padded(changed, STEP_PX), counting(batch)
        target = functional.adaptive_avg_pool2d(changed, logits.shape[2:])
        wrong = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        marks = masked_mean(wrong, reduced(inside, logits.shape[2:]))
        good = _good_places(changed, inside, features[0].shape[2:])
        return _MARKS_WEIGHT * marks + self.copy_loss(features, good)

    @torch.no_grad()
    def fit(self, tiles: Tensor) -> None:
        """Learn from good ``tiles`` what is usual, and where in a tile they are marked or of another brightness."""
        features = self.features_of_many(tiles)
        self.learn(features)
        self.marks.place.fill_(1)
        parts = zip(*(torch.split(values, FIT_BATCH) for values in features), strict=True)
        self.marks.place.copy_(usual_places(torch.cat([self.marks.evidence(list(part)) for part in parts])))
        differences = torch.cat([self.tone.differences(some) for some in torch.split(tiles, FIT_BATCH)])
        self.tone.place.copy_(usual_places(self.tone.learn(differences)))

    def score(self, tiles: Tensor) -> Tensor:
        """Return how unusual and how damaged the features look, 1 where they are as usual, (n, height, width)."""
        features, size = self.standardised(tiles), tiles.shape[2:]
        score = self.unusual(features, size) * at_size(self.marks.evidence(features), size)
        if self._tone_weight:
            score = score + self._tone_weight * at_size(self.tone(tiles), size, CELL_PX)
        return score[:, 0]

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return Adam on the autoencoders and the marks; the pretrained network stays as it is."""
        return [torch.optim.Adam([*self.depths.parameters(), *self.marks.parameters()], lr=learning_rate)]


def _good_places(changed: Tensor, roi: Tensor | None, size: Sequence[int]) -> Tensor:
    """Return how much of each feature's surroundings is good material in the ROI, (n, 1, *size)."""
    damaged = functional.adaptive_max_pool2d(changed, (size[0], size[1]))
    good = 1 - functional.max_pool2d(damaged, 2 * _APART + 1, stride=1, padding=_APART)
    inside = reduced(roi, size)
    return good if inside is None else good * inside
