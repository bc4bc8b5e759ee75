"""Differences of images as a pretrained network sees them: DIR section IV-E."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn

from inspect_cli.methods import efficientnet, vgg
from inspect_cli.methods.base import in_float32

#: Blocks of EfficientNet-Lite0 whose features are compared: details at a quarter and at an eighth of the size.
LITE0_DEPTHS: Final = (2, 4)


class FeatureDistance:
    """Mean squared difference of the features of two images.

    Holds its network without being a module, so that a detector that uses it neither trains nor stores it. Works
    in float32 also under autocast: the features of a good repair differ by less than the rounding of bfloat16,
    whose gradient would be noise.

    Parameters
    ----------
    network
        Frozen, from normalised images (n, 3, height, width) to a list of feature maps.
    mean, deviation
        What the three colours of an image with values from 0 to 1 are normalised with.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(mean)[:, None, None]
        self._deviation = torch.tensor(deviation)[:, None, None]

    def __call__(self, images: Tensor, target: Tensor) -> Tensor:
        """Return the distance, float32, of images to target, both (n, channels, height, width) in -1 to 1.

        One channel is shown to the network as grey, three as colours; of other numbers each channel is an image
        of its own. Several feature maps count alike, whatever their size. No gradient flows into ``target``.
        """
        device = images.device
        self._network.to(device)
        self._mean, self._deviation = self._mean.to(device), self._deviation.to(device)
        with in_float32(images):
            with torch.no_grad():
                wanted = self._network(self._prepared(target))
            found = self._network(self._prepared(images))
            distances = [((a - b) ** 2).mean() for a, b in zip(found, wanted, strict=True)]
            return torch.stack(distances).mean()

    def _prepared(self, signed: Tensor) -> Tensor:
        unit = (signed.float() + 1) / 2
        if unit.shape[1] != 3:
            unit = unit.reshape(-1, 1, *unit.shape[2:]).expand(-1, 3, -1, -1)
        return (unit - self._mean) / self._deviation


def feature_distance(name: Literal["vgg11", "efficientnet-lite0"], weights: str | None) -> FeatureDistance:
    """Return the distance of a pretrained network; ``weights`` is the file of VGG-11's.

    Raises
    ------
    ModelError
        If the weights cannot be had.
    """
    if name == "vgg11":
        return FeatureDistance(vgg.Vgg11Features(Path(weights or "")), vgg.MEAN, vgg.DEVIATION)
    network = efficientnet.EfficientNetLite0Features(LITE0_DEPTHS)
    return FeatureDistance(network, efficientnet.MEAN, efficientnet.DEVIATION)
