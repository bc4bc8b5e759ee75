"""Direct anomaly maps: DIR; the network's output is the anomaly itself, and scoring reconstructs nothing.

The paper's values lie in -1 to 1, here too inside the network and its losses; scores are in these units.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from inspect_cli.corruptions import Corruption
from inspect_cli.corruptions.filters import FAMILIES, Family
from inspect_cli.corruptions.noising_bank import NoisingFilterBank
from inspect_cli.methods.activations import ACTIVATIONS, Activation
from inspect_cli.methods.base import Batch, Detector, MethodSettings, masked_mean, paced
from inspect_cli.methods.networks import LEAKY_SLOPE, initialise
from inspect_cli.methods.perceptual import FeatureDistance, feature_distance

#: Step size over the loop's: a usual peak of 1e-3. The paper's 2e-4 (section IV-F) learns as well but slower: after
#: 400 steps on stripes a blot stood out 9 times with it, 2200 times with this.
_PACE: Final = 0.5
#: Adam's decay rates (section IV-F).
_BETAS: Final = (0.5, 0.999)
#: Standard deviation of the last layer's first weights: nothing is anomalous to begin with.
_LAST_DEVIATION: Final = 1e-3


class DirectSettings(MethodSettings):
    """Settings of the direct method."""

    width: int = Field(
        128, ge=1, description="Filters of the first layer; the second has twice, the third four times as many."
    )
    output: Literal["anomaly", "reconstruction"] = Field(
        "anomaly",
        description="What the network puts out: the anomaly itself, or the repaired tile as a denoising autoencoder "
        "does (DIR Fig. 13, for comparison).",
    )
    activation: Activation = Field(
        "refrelu", description="How the repaired tile is kept in range: Reflected ReLU, tanh, or not at all."
    )
    loss: Literal["l1", "l2", "vgg11", "efficientnet-lite0"] = Field(
        "l1",
        description="Difference of repaired and clean tile: of pixels (`l1`, `l2`) or of features of a pretrained "
        "network, whose weights come from a file (`vgg11`) or an installed package (`efficientnet-lite0`).",
    )
    weights: str | None = Field(
        None,
        validate_default=True,
        description="With loss `vgg11`: file of VGG-11 weights with torchvision's names (.pth, .safetensors). Read "
        "in training only.",
    )
    families: tuple[Family, ...] = Field(
        FAMILIES, min_length=1, description="Families of the Noising Filter Bank that damage the training tiles."
    )

    @field_validator("weights")
    @classmethod
    def _goes_with_the_loss(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("loss") == "vgg11" and weights is None:
            raise ValueError("loss 'vgg11' needs the file of its weights here")
        if info.data.get("loss") != "vgg11" and weights is not None:
            raise ValueError("only loss 'vgg11' reads weights from a file; leave this out")
        return weights


class DirectDetector(Detector):
    """Trained to name what must be added to a noised tile to repair it; on a clean tile that is the anomaly."""

    name = "direct"
    Settings = DirectSettings
    fully_convolutional = True

    def __init__(self, channels: int, tile_px: int, settings: DirectSettings) -> None:
        super().__init__(channels, tile_px, settings)
        widths = (channels, settings.width, 2 * settings.width, 4 * settings.width)
        self.down = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 3, 2, 1) for before, after in pairwise(reversed(widths))
        )
        initialise(self)
        nn.init.normal_(self.up[-1].get_parameter("weight"), 0.0, _LAST_DEVIATION)
        self._activation = ACTIVATIONS[settings.activation]
        self._reconstructs = settings.output == "reconstruction"
        self._loss, self._weights = settings.loss, settings.weights
        self._bank = NoisingFilterBank(settings.families)
        self._distance: FeatureDistance | None = None  # no module: neither trained nor stored

    def corruption(self) -> Corruption:
        """Return the Noising Filter Bank."""
        return self._bank

    def output(self, signed: Tensor) -> Tensor:
        """Return the network's output, float32, as large as ``signed`` (n, channels, height, width) in -1 to 1."""
        values, sizes = signed, []
        for layer in self.down:
            sizes.append(list(values.shape[2:]))
            values = leaky_relu(layer(values), LEAKY_SLOPE)
        for layer in self.up[:-1]:
            values = leaky_relu(layer(values, output_size=sizes.pop()), LEAKY_SLOPE)
        anomaly: Tensor = self.up[-1](values, output_size=sizes.pop())
        return anomaly.float()

    def repaired(self, signed: Tensor) -> Tensor:
        """Return the repaired tiles (n, channels, height, width), -1 to 1 as the activation keeps them (DIR IV-D)."""
        output = self.output(signed)
        return self._activation(output if self._reconstructs else signed + output)

    def loss(self, batch: Batch) -> Tensor:
        """Return the scalar difference of repaired and clean tiles inside the ROI (DIR section IV-E)."""
        clean, repaired = _signed(batch.tiles), self.repaired(_signed(batch.inputs))
        if self._loss == "l1":
            return masked_mean((repaired - clean).abs(), batch.roi)
        if self._loss == "l2":
            return masked_mean((repaired - clean) ** 2, batch.roi)
        if batch.roi is not None:
            repaired = torch.where(batch.roi > 0, repaired, clean)
        if self._distance is None:
            self._distance = feature_distance(self._loss, self._weights)
        return self._distance(repaired, clean)

    def reconstruct(self, tiles: Tensor) -> Tensor | None:
        """Return the copy that the denoising variant makes, shape and range (0 to 1) of ``tiles``.

        With output ``anomaly`` there is none: tile and anomaly add up to a perfect copy if the network says
        nothing at all, so that neither the picture nor the variance it explains would tell anything.
        """
        return (self.repaired(_signed(tiles)) + 1) / 2 if self._reconstructs else None

    def score(self, tiles: Tensor) -> Tensor:
        """Return the size of the anomaly, summed over channels, (n, height, width), from 0 (DIR section IV-G).

        The anomaly of the denoising variant is what its copy differs by (DIR section VI-D).
        """
        signed = _signed(tiles)
        anomaly = self.repaired(signed) - signed if self._reconstructs else self.output(signed)
        return anomaly.abs().sum(dim=1)

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return Adam with the paper's decay rates, at half the loop's step size."""
        return [torch.optim.Adam(paced(self.parameters(), _PACE, learning_rate), betas=_BETAS)]


def _signed(tiles: Tensor) -> Tensor:
    return tiles * 2 - 1
