"""The first layers of VGG-11, with weights from a file that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from torch import Tensor, nn

from inspect_cli.methods.pretrained import load_weights

#: Mean and standard deviation of ImageNet's red, green and blue, which the weights expect to be taken out.
MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)


class Vgg11Features(nn.Module):
    """VGG-11 up to the max-pooling and ReLU after its fourth convolution (DIR section IV-E); frozen.

    Parameters
    ----------
    weights
        A state dictionary with torchvision's names (``features.0.weight``...), as .safetensors or .pth. Only the
        first four convolutions are read.

    Raises
    ------
    ModelError
        If the file cannot be read, or a weight is missing or has another shape.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        # The places in this list are torchvision's, so that the names of the weights are, too.
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.load_state_dict(load_weights(weights, self.state_dict(), "VGG-11 as torchvision names it"))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features (n, 256, height / 8, width / 8) of normalised images (n, 3, height, width)."""
        return [self.features(images)]
